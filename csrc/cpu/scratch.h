// Memory that a thread keeps between calls, so that calls do not touch fresh pages.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace hace {

// Grows when more is needed, and never shrinks; 64-byte aligned; growing loses the contents.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(memory_); }

  void* get(int64_t bytes) {
    if (bytes > capacity_) {
      std::free(memory_);
      const int64_t rounded = (bytes + 63) / 64 * 64;
      memory_ = std::aligned_alloc(64, rounded);
      capacity_ = memory_ ? rounded : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

}  // namespace hace
