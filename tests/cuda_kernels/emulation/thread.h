// The emulator's record of a thread of a block, and of where in its kernel the thread is.
#pragma once

#include <cstdint>
#include <cstring>

#include "fibers.h"
#include "vector_types.h"

inline constexpr int warpSize = 32;
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

namespace hace_emulation {

inline constexpr unsigned kMaxThreads = 1024;

inline bool same_text(const char* a, const char* b) { return a == b || !std::strcmp(a, b); }

// The place in the kernel where something was called.
struct Site {
  const char* file;
  int line;

  friend bool operator==(Site a, Site b) { return a.line == b.line && same_text(a.file, b.file); }
};

// The call in which a thread waits. `mask` is the mask of lanes; it is 0 for a barrier of the
// block.
struct Call {
  const char* name;
  Site site;
  unsigned mask;

  friend bool operator==(const Call& a, const Call& b) {
    return a.mask == b.mask && a.site == b.site && same_text(a.name, b.name);
  }
};

enum class State : unsigned char { kFresh, kReady, kWaiting, kExited };

struct Thread {
  uint3 index;
  Fiber* fiber;
  Call call;
  // The values that it gives to and gets from the other lanes of its warp.
  uint64_t given, got;
  unsigned source;
};

struct Launch {
  const char* kernel;
  Site site;
  dim3 grid, block;
  void (*run)(const void* parameters);
  const void* parameters;
};

}  // namespace hace_emulation
