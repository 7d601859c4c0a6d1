// The columns of every ring of every path, as hace_kernels/ring_words.py lists them.
#pragma once

#include <cstdint>

namespace hace {

// A word is 16 neighbouring columns: its number times 2^16, plus the mask of those in the ring.
constexpr int64_t kWordColumns = 16;
// A ring's list is filled up to a multiple of this number with words whose mask is 0.
constexpr int64_t kWordsAtOnce = 4;

// The largest word that a list may contain for a row of so many columns.
inline uint32_t last_word(int64_t columns) {
  const int64_t word = (columns - 1) / kWordColumns, used = columns - word * kWordColumns;
  return static_cast<uint32_t>(word << 16 | ((int64_t{1} << used) - 1));
}

struct RingWords {
  // Target t has the rings ring[ptr[t] + t] .. ring[ptr[t + 1] + t], innermost first, where ptr is
  // the path table's. Null: rings are not listed.
  const int32_t* ring;
  // Ring r has words[ptr[r]] .. words[ptr[r + 1]].
  const int32_t* ptr;
  const uint32_t* words;
  int64_t num_rings;
  int64_t num_words;
};

}  // namespace hace
