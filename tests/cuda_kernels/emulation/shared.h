// The shared memory of the running block: arrays laid out one after another with gaps between them.
//
// At the start of a block, each array is filled with 0xFF (NaN, -1), since real shared memory may
// hold anything. A gap is poisoned under AddressSanitizer; otherwise it holds a pattern that is
// checked when the block ends.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "sanitizers.h"

namespace hace_emulation {

[[noreturn]] void fail(const char* format, ...);

class Shared {
 public:
  Shared() = default;
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() {
    unpoison(memory_, capacity_);
    std::free(memory_);
  }

  // Forgets the arrays of the previous launch. `limit` is the most bytes that all arrays may take.
  void begin_launch(size_t limit) {
    ++launch_;
    limit_ = limit;
    const size_t needed = limit + kArrays * (2 * kGap + 2 * kAlign);
    if (needed > capacity_) {
      unpoison(memory_, capacity_);
      std::free(memory_);
      capacity_ = (needed + kAlign - 1) / kAlign * kAlign;
      memory_ = static_cast<unsigned char*>(std::aligned_alloc(kAlign, capacity_));
      if (!memory_) std::abort();
      poison(memory_, capacity_);
    }
    for (unsigned i = 0; i < arrays_; ++i) poison(array_[i].start, array_[i].bytes);
    arrays_ = 0;
    used_ = 0;
    total_ = 0;
  }

  // Aligned no better than asked for, so that UndefinedBehaviorSanitizer detects loads that are too
  // wide, but at least to 8 bytes, the granularity of AddressSanitizer.
  void* allocate(const char* name, size_t bytes, size_t align) {
    if (arrays_ == kArrays) fail("a kernel with more than %u shared arrays", kArrays);
    total_ += bytes;
    if (total_ > limit_) {
      fail("%zu bytes of static and dynamic shared memory where %zu may be had", total_, limit_);
    }
    const size_t start = (used_ + kGap + kAlign - 1) / kAlign * kAlign + std::max<size_t>(align, 8);
    Array& array = array_[arrays_++];
    array = {name, memory_ + start, bytes};
    used_ = start + bytes + kGap;
    unpoison(array.start, bytes);
    std::memset(array.start, 0xff, bytes);
    if (!kAddressSanitizer) {
      std::memset(array.start - kGap, kPattern, kGap);
      std::memset(array.start + bytes, kPattern, kGap);
    }
    return array.start;
  }

  void begin_block() {
    for (unsigned i = 0; i < arrays_; ++i) std::memset(array_[i].start, 0xff, array_[i].bytes);
  }

  void end_block() const {
    if (kAddressSanitizer) return;
    for (unsigned i = 0; i < arrays_; ++i) {
      const Array& array = array_[i];
      if (intact(array.start - kGap) && intact(array.start + array.bytes)) continue;
      fail("something wrote beyond the %zu bytes of the shared array %s", array.bytes, array.name);
    }
  }

  uint64_t launch() const { return launch_; }

 private:
  static constexpr size_t kAlign = 128, kGap = 64;
  static constexpr unsigned kArrays = 64;
  static constexpr unsigned char kPattern = 0xa5;

  static bool intact(const unsigned char* gap) {
    return std::all_of(gap, gap + kGap, [](unsigned char byte) { return byte == kPattern; });
  }

  struct Array {
    const char* name;
    unsigned char* start;
    size_t bytes;
  };

  unsigned char* memory_ = nullptr;
  size_t capacity_ = 0, limit_ = 0, used_ = 0, total_ = 0;
  Array array_[kArrays];
  unsigned arrays_ = 0;
  uint64_t launch_ = 0;
};

}  // namespace hace_emulation
