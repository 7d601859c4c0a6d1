#include "ring_words.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <unordered_map>

namespace hace {
namespace {

constexpr int kWordBits = 16;
constexpr size_t kAtOnce = 4;  // kernels take a ring's list in steps of so many words

// A ring: the interval around it, and the one that it leaves out.
using Ends = std::array<int32_t, 4>;

struct HashOfEnds {
  size_t operator()(const Ends& ends) const {
    uint64_t hash = 0;
    for (const int32_t end : ends)
      hash = (hash ^ static_cast<uint32_t>(end)) * 0x9e3779b97f4a7c15u, hash ^= hash >> 29;
    return hash;
  }
};

class Lister {
 public:
  Lister(const int32_t* order, int64_t num_classes)
      : order_(order), mask_((num_classes + kWordBits - 1) / kWordBits) {}

  void append(const Ends& ends, std::vector<uint32_t>& words) {
    for (int32_t i = ends[0]; i < ends[2]; ++i) add(i);
    for (int32_t i = ends[3]; i < ends[1]; ++i) add(i);
    std::sort(touched_.begin(), touched_.end());
    for (const uint32_t word : touched_) {
      words.push_back(word << kWordBits | mask_[word]);
      mask_[word] = 0;
    }
    touched_.clear();
    while (words.size() % kAtOnce) words.push_back(words.back() >> kWordBits << kWordBits);
  }

 private:
  void add(int32_t position) {
    const uint32_t column = order_ ? order_[position] : position;
    uint16_t& mask = mask_[column / kWordBits];
    if (mask == 0) touched_.push_back(column / kWordBits);
    mask |= 1u << column % kWordBits;
  }

  const int32_t* const order_;
  std::vector<uint16_t> mask_;
  std::vector<uint32_t> touched_;
};

}  // namespace

RingWords ring_words(const int64_t* ptr, int64_t num_paths, const int32_t* start,
                     const int32_t* stop, const int32_t* order, int64_t num_classes,
                     int64_t most_words) {
  RingWords rings;
  Lister lister(order, num_classes);
  std::unordered_map<Ends, int32_t, HashOfEnds> known;
  rings.ptr.push_back(0);
  rings.ring.reserve(ptr[num_paths] + num_paths);
  const int32_t all = static_cast<int32_t>(num_classes);
  for (int64_t path = 0; path < num_paths; ++path) {
    const int64_t first = ptr[path], last = ptr[path + 1];
    const int32_t begin = first < last ? start[first] : 0;
    Ends ends = {begin, begin, begin, begin};
    for (int64_t i = first; i <= last; ++i) {
      ends = {i < last ? start[i] : 0, i < last ? stop[i] : all, ends[0], ends[1]};
      if (!(0 <= ends[0] && ends[0] <= ends[2] && ends[3] <= ends[1] && ends[1] <= all))
        throw std::invalid_argument("the intervals of a path are not nested within the classes");
      const auto found = known.emplace(ends, static_cast<int32_t>(known.size()));
      rings.ring.push_back(found.first->second);
      if (!found.second) continue;
      lister.append(ends, rings.word);
      rings.ptr.push_back(static_cast<int32_t>(rings.word.size()));
      if (static_cast<int64_t>(rings.word.size()) > most_words) return {};
    }
  }
  return rings;
}

}  // namespace hace
