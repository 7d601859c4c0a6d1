// __half and __nv_bfloat16. Conversions round to nearest, ties to even. Arithmetic is in float and
// rounded after each operation. As in CUDA, every NaN that a conversion makes is 0x7fff.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vector_types.h"

namespace hace_emulation {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// x as a float; if x lies between two floats, the one whose last bit is odd. Rounding the result to
// a narrower type gives the same as rounding x to it.
inline float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (nearest == x || std::isnan(x)) return nearest;
  const uint32_t towards_zero = bits_of(nearest) - (std::fabs(nearest) > std::fabs(x));
  return float_of(towards_zero | 1);
}

struct HalfFormat {
  static uint16_t narrow(float x) {
    const uint32_t sign = bits_of(x) >> 16 & 0x8000, magnitude = bits_of(x) & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= bits_of(65520)) return sign | 0x7c00;
    if (magnitude >= bits_of(0x1p-14f)) {
      const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
      return sign | ((rounded >> 13) - (112 << 10));
    }
    // Subnormal: a float's last place at 0.5 is 2^-24, the same as a subnormal half's.
    return sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f));
  }
  static float widen(uint16_t bits) {
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31;
    const uint32_t mantissa = bits & 0x3ff;
    if (exponent == 31) return float_of(mantissa ? 0x7fffffff : sign | 0x7f800000);
    if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  }
};

struct BFloat16Format {
  static uint16_t narrow(float x) {
    const uint32_t bits = bits_of(x);
    if (std::isnan(x)) return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
  static float widen(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
};

template <typename Format>
struct Narrow {
  uint16_t bits;

  Narrow() = default;
  Narrow(float x) : bits(Format::narrow(x)) {}
  Narrow(double x) : bits(Format::narrow(round_to_odd(x))) {}
  template <typename Integer, typename = std::enable_if_t<std::is_integral_v<Integer>>>
  Narrow(Integer x) : Narrow(static_cast<double>(x)) {}
  operator float() const { return Format::widen(bits); }

  static Narrow from_bits(uint16_t bits) {
    Narrow x;
    x.bits = bits;
    return x;
  }

  Narrow& operator+=(Narrow b) { return *this = *this + b; }
  Narrow& operator-=(Narrow b) { return *this = *this - b; }
  Narrow& operator*=(Narrow b) { return *this = *this * b; }
  Narrow& operator/=(Narrow b) { return *this = *this / b; }

  friend Narrow operator-(Narrow a) { return from_bits(a.bits ^ 0x8000); }
  friend Narrow operator+(Narrow a, Narrow b) { return float(a) + float(b); }
  friend Narrow operator-(Narrow a, Narrow b) { return float(a) - float(b); }
  friend Narrow operator*(Narrow a, Narrow b) { return float(a) * float(b); }
  friend Narrow operator/(Narrow a, Narrow b) { return float(a) / float(b); }
  friend bool operator==(Narrow a, Narrow b) { return float(a) == float(b); }
  friend bool operator!=(Narrow a, Narrow b) { return float(a) != float(b); }
  friend bool operator<(Narrow a, Narrow b) { return float(a) < float(b); }
  friend bool operator>(Narrow a, Narrow b) { return float(a) > float(b); }
  friend bool operator<=(Narrow a, Narrow b) { return float(a) <= float(b); }
  friend bool operator>=(Narrow a, Narrow b) { return float(a) >= float(b); }
};

template <typename Format>
struct alignas(4) NarrowPair {
  Narrow<Format> x, y;
};

}  // namespace hace_emulation

using __half = hace_emulation::Narrow<hace_emulation::HalfFormat>;
using __half2 = hace_emulation::NarrowPair<hace_emulation::HalfFormat>;
using half = __half;
using half2 = __half2;
using __nv_bfloat16 = hace_emulation::Narrow<hace_emulation::BFloat16Format>;
using __nv_bfloat162 = hace_emulation::NarrowPair<hace_emulation::BFloat16Format>;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half __double2half(double x) { return x; }
inline __half __ushort_as_half(unsigned short bits) { return __half::from_bits(bits); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }

inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline __nv_bfloat16 __double2bfloat16(double x) { return x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return __nv_bfloat16::from_bits(bits);
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }

inline float __low2float(__half2 v) { return v.x; }
inline float __high2float(__half2 v) { return v.y; }
inline float __low2float(__nv_bfloat162 v) { return v.x; }
inline float __high2float(__nv_bfloat162 v) { return v.y; }
