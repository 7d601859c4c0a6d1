// The element types of logits and gradients, and the working type of each.
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

// The working type of float64 is float64, that of all narrower types float32.
template <typename Stored>
using work_t = typename std::conditional<std::is_same<Stored, double>::value, double, float>::type;

// Converts IEEE binary16 to binary32 without hardware support. Shifting the exponent into place
// leaves it 112 too small. A subnormal half, which has no leading 1, gets one by that; it is
// subtracted again, an exact difference of normal numbers.
inline float half_to_float(uint16_t half) {
  constexpr uint32_t kRebias = 112u << 23, kSmallestNormal = 113u << 23;  // 2^-14
  uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  const bool is_subnormal = (half & 0x7c00) == 0, is_special = (half & 0x7c00) == 0x7c00;
  bits += is_subnormal ? kSmallestNormal : is_special ? 2 * kRebias : kRebias;
  float value, smallest_normal;
  std::memcpy(&value, &bits, sizeof(value));
  std::memcpy(&smallest_normal, &kSmallestNormal, sizeof(value));
  if (is_subnormal) value -= smallest_normal;
  std::memcpy(&bits, &value, sizeof(bits));
  bits |= static_cast<uint32_t>(half & 0x8000) << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Rounds to nearest even. Adding a power of two whose last place is binary16's last place at the
// value's magnitude makes the float adder do the rounding, also for subnormal numbers.
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
  // The low bits of the sum count steps of binary16 above the base of that power of two.
  const uint32_t base = ((exponent >> 23) - 113) << 10;
  return sign | static_cast<uint16_t>(base + (sum_bits - anchor_bits));
}

}  // namespace
