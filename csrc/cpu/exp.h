// exp(x) for x <= 0, lane by lane; results below the smallest normal number become 0.
#pragma once

#include "vec.h"

namespace {

// exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2. Adding kRound leaves n in the low
// bits of the sum; shifted into the exponent field and biased they are 2^n. ln 2 is split so that
// n * kLn2High is exact.

inline Vector<float> exp_nonpositive(Vector<float> x) {
  constexpr float kLowest = -87.3365f;  // ln of the smallest normal number
  constexpr float kRound = 0x1.8p23f;
  constexpr float kLn2High = 0x1.62e4p-1f;
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));

  const Vector<float> clamped = max(broadcast(kLowest), x);
  const Vector<float> rounded = clamped * 0x1.715476p0f + kRound;
  const Vector<float> n = rounded - kRound;
  const Vector<float> r = (clamped - n * kLn2High) - n * kLn2Low;
  // Minimax for (e^r - 1 - r) / r^2 weighted by r^2 / e^r: relative error of e^r below 3.1e-9.
  Vector<float> q = r * 0x1.6a2434p-10f + 0x1.1239e2p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  const Vector<float> e = (q * r) * r + r + 1.0f;
  const Vector<float> scale = bit_cast<Vector<float>>((bit_cast<Bits>(rounded) << 23) + (127u << 23));
  return x < kLowest ? Vector<float>{} : e * scale;  // a NaN is not below anything and stays
}

inline Vector<double> exp_nonpositive(Vector<double> x) {
  constexpr double kLowest = -708.396;
  constexpr double kRound = 0x1.8p52;
  constexpr double kLn2High = 0x1.62e42fefap-1;
  constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
  // Taylor to r^13: the remainder is below 4.2e-18.
  constexpr double kInverseFactorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
      1.0 / 40320,      1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,
      1.0 / 6,          0.5};

  const Vector<double> clamped = max(broadcast(kLowest), x);
  const Vector<double> rounded = clamped * 0x1.71547652b82fep0 + kRound;
  const Vector<double> n = rounded - kRound;
  const Vector<double> r = (clamped - n * kLn2High) - n * kLn2Low;
  Vector<double> q = broadcast(kInverseFactorials[0]);
  for (int k = 1; k < 12; ++k) q = q * r + kInverseFactorials[k];
  const Vector<double> e = (q * r) * r + r + 1.0;
  const Vector<double> scale =
      bit_cast<Vector<double>>((bit_cast<Bits>(rounded) << 52) + (uint64_t{1023} << 52));
  return x < kLowest ? Vector<double>{} : e * scale;
}

}  // namespace
