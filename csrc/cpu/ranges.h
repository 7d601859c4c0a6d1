// Checks that indices are in range.
#pragma once

#include <cstdint>

namespace hace {

// Whether every entry is in [low, high), both small against 2^31: x - low must not be negative, and
// x - high must be. (Sign bits vectorise on every x86; comparisons do not.)
inline bool all_within(const int32_t* x, int64_t size, int64_t low, int64_t high) {
  const uint32_t low_bits = static_cast<uint32_t>(low), high_bits = static_cast<uint32_t>(high);
  uint32_t below = 0, not_above = ~uint32_t{0};
  for (int64_t i = 0; i < size; ++i) {
    below |= static_cast<uint32_t>(x[i]) - low_bits;
    not_above &= static_cast<uint32_t>(x[i]) - high_bits;
  }
  return !(below >> 31) && not_above >> 31;
}

}  // namespace hace
