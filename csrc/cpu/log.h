// log(x) for x >= 0, lane by lane; -inf at 0, NaN for NaN. Subnormal numbers count as 0.
#pragma once

#include <limits>

#include "vec.h"

namespace {

// x = 2^n m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(f) with f = (m - 1) / (m + 1), whose
// series in f^2 < 0.0295 ends where the next term is below the last place.
template <typename Real>
inline Vector<Real> log_of(Vector<Real> x) {
  constexpr bool kNarrow = sizeof(Real) == 4;
  typedef Integers<Real> Bits;
  using Bit = typename std::remove_reference<decltype(Bits{}[0])>::type;
  constexpr int kMantissaBits = kNarrow ? 23 : 52;
  constexpr Bit kRootHalf = kNarrow ? Bit(0x3f3504f3) : Bit(0x3fe6a09e667f3bcd);
  constexpr int kTerms = kNarrow ? 5 : 11;

  const Bits above = bit_cast<Bits>(x) - kRootHalf;
  const Bits exponent = above >> kMantissaBits;  // arithmetic: rounds down
  const Vector<Real> m = bit_cast<Vector<Real>>(bit_cast<Bits>(x) - (exponent << kMantissaBits));
  const Vector<Real> n = __builtin_convertvector(exponent, Vector<Real>);
  const Vector<Real> f = (m - Real(1)) / (m + Real(1));
  const Vector<Real> square = f * f;
  Vector<Real> series = broadcast(Real(1) / Real(2 * kTerms - 1));
  for (int k = kTerms - 2; k >= 1; --k) series = series * square + Real(1) / Real(2 * k + 1);
  // ln 2 in two parts, n times the first of which is exact.
  constexpr Real kLn2High = kNarrow ? Real(0x1.62e4p-1) : Real(0x1.62e42fefap-1);
  constexpr Real kLn2Low = kNarrow ? Real(0x1.7f7d1cp-20) : Real(0x1.cf79abc9e3b3ap-40);
  const Vector<Real> twice = f + f;
  const Vector<Real> log = n * kLn2High + (twice + (twice * square * series + n * kLn2Low));

  const Vector<Real> special =
      x == x ? broadcast(-std::numeric_limits<Real>::infinity()) : x;  // 0 or NaN
  return x >= std::numeric_limits<Real>::min() ? log : special;
}

}  // namespace
