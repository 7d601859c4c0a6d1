// The element types of logits and gradients, and the type that each is worked on in.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

// float64 is worked on in float64, everything narrower in float32.
template <typename Stored>
using work_t = typename std::conditional<std::is_same<Stored, double>::value, double, float>::type;

// IEEE binary16 to binary32 without hardware help: shifting the exponent into place leaves it
// 2^112 too small, which one exact multiplication repairs, subnormals included.
inline float half_to_float(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &magnitude, sizeof(value));
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((half & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000;  // infinity or NaN
  bits |= static_cast<uint32_t>(half & 0x8000) << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Round to nearest even. Adding a power of two whose last place is binary16's last place at the
// value's magnitude lets the float adder do the rounding, subnormals included.
inline uint16_t float_to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;   // NaN
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  const uint32_t exponent = bits < 0x38800000 ? 0x38800000 : bits & 0x7f800000;
  const uint32_t anchor_bits = exponent + (13u << 23);
  float anchor, magnitude;
  std::memcpy(&anchor, &anchor_bits, sizeof(anchor));
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  const float sum = anchor + magnitude;
  uint32_t sum_bits;
  std::memcpy(&sum_bits, &sum, sizeof(sum_bits));
  // The low bits of the sum count binary16 steps above the anchor's exponent base.
  const uint32_t base = ((exponent >> 23) - 113) << 10;
  return sign | static_cast<uint16_t>(base + (sum_bits - anchor_bits));
}

}  // namespace
