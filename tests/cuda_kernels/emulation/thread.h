// A thread of a block as the emulator sees it, and where in its kernel it is.
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

// Where in the kernel something was called.
struct Site {
  const char* file;
  int line;

  friend bool operator==(Site a, Site b) { return a.line == b.line && same_text(a.file, b.file); }
};

// What a thread waits in. `mask` is of lanes; a barrier of the block has none.
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
  // What it gives to and gets from the other lanes of its warp.
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
