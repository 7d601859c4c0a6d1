// The columns of the rings of paths, as words: hace_kernels.ring_words says what they are for.
#pragma once

#include <cstdint>
#include <vector>

namespace hace {

struct RingWords {
  std::vector<int32_t> ring;
  std::vector<int32_t> ptr;
  std::vector<uint32_t> word;
};

// The words of the rings of all paths; each distinct ring is listed once. `order` is null if
// positions are columns. If there are more than `most_words`, the result is empty, without a ptr.
// Throws std::invalid_argument for intervals that are not nested within the classes.
RingWords ring_words(const int64_t* ptr, int64_t num_paths, const int32_t* start,
                     const int32_t* stop, const int32_t* order, int64_t num_classes,
                     int64_t most_words);

}  // namespace hace
