// exp(x) for x <= 0, lane by lane. Results below the smallest normal number are 0: computed so
// here, or because subnormal numbers count as 0 (subnormals.h).
#pragma once

#include "vec.h"

namespace {

// exp(x) = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; ln 2 is split in two so that
// n times its upper part is exact.

// e^r = 1 + r + r^2 q(r), with a minimax polynomial q for a relative error of e^r below 3.1e-9.
inline Vector<float> exp_of_remainder(Vector<float> r) {
  Vector<float> e = r * 0x1.6a2434p-10f + 0x1.1239e2p-7f;
  e = e * r + 0x1.5558f2p-5f;
  e = e * r + 0x1.555492p-3f;
  e = e * r + 0x1.fffffcp-2f;
  e = e * r + 1.0f;
  return e * r + 1.0f;
}

inline Vector<float> exp_nonpositive(Vector<float> x) {
  constexpr float kLn2High = 0x1.62e4p-1f;
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
#if defined(__AVX512F__)
  // The instruction scales by 2^n and rounds to 0 by itself. The bound keeps -inf out of r.
  const Vector<float> bounded = max(broadcast(-126.0f), x);
  const Vector<float> n = bit_cast<Vector<float>>(_mm512_roundscale_ps(
      bit_cast<__m512>(bounded * 0x1.715476p0f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const Vector<float> e = exp_of_remainder((bounded - n * kLn2High) - n * kLn2Low);
  return bit_cast<Vector<float>>(_mm512_scalef_ps(bit_cast<__m512>(e), bit_cast<__m512>(n)));
#else
  // Adding kRound leaves n in the low bits of the sum; shifted into the exponent field and biased,
  // they are 2^n. Below the smallest normal number this is wrong, so the result is set to 0.
  constexpr float kLowest = -87.3365f;
  constexpr float kRound = 0x1.8p23f;
  const Vector<float> bounded = max(broadcast(kLowest), x);
  const Vector<float> rounded = bounded * 0x1.715476p0f + kRound;
  const Vector<float> n = rounded - kRound;
  const Vector<float> e = exp_of_remainder((bounded - n * kLn2High) - n * kLn2Low);
  const Vector<float> scale =
      bit_cast<Vector<float>>((bit_cast<Words>(rounded) << 23) + (127u << 23));
  return x < kLowest ? Vector<float>{} : e * scale;  // NaN is not less than anything, and stays
#endif
}

// How far below the top `exp_over_power` is 0.
#if defined(__AVX512F__)
constexpr float kReach = 126;
#else
constexpr float kReach = 86;
#endif

#if defined(__FMA__)
// exp(x) / 2^n0 with n0 = round(top / ln 2), for x <= top and |top| < 2^17. It is as exact as exp:
// no difference is rounded, since the product of n and the upper part of ln 2 is subtracted
// exactly. Further than kReach below the top it is 0; `lowest` is top - kReach.
inline Vector<float> exp_over_power(Vector<float> x, Vector<float> lowest, Vector<float> n0) {
  constexpr float kLn2High = 0x1.62e4p-1f;
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  const Vector<float> bounded = max(lowest, x);
#if defined(__AVX512F__)
  const Vector<float> n = bit_cast<Vector<float>>(_mm512_roundscale_ps(
      bit_cast<__m512>(bounded * 0x1.715476p0f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  const Vector<float> e = exp_of_remainder((bounded - n * kLn2High) - n * kLn2Low);
  return bit_cast<Vector<float>>(_mm512_scalef_ps(bit_cast<__m512>(e), bit_cast<__m512>(n - n0)));
#else
  constexpr float kRound = 0x1.8p23f;
  const Vector<float> n = (bounded * 0x1.715476p0f + kRound) - kRound;
  const Vector<float> e = exp_of_remainder((bounded - n * kLn2High) - n * kLn2Low);
  const Vector<float> scale =
      bit_cast<Vector<float>>((bit_cast<Words>((n - n0) + kRound) << 23) + (127u << 23));
  return x < lowest ? Vector<float>{} : e * scale;  // NaN is not less than anything, and stays
#endif
}
#endif

inline Vector<double> exp_nonpositive(Vector<double> x) {
  constexpr double kLowest = -708.396;
  constexpr double kRound = 0x1.8p52;
  constexpr double kLn2High = 0x1.62e42fefap-1;
  constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
  // Taylor series up to r^13; the remainder is below 4.2e-18.
  constexpr double kInverseFactorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
      1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};

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
