// A tree on the device: its levels, what is at each place, and how rows are divided among blocks.
#pragma once

#include <algorithm>

#include "../tree.h"
#include "element.cuh"

namespace hace {

// ---- levels ----

// How many bounds of levels are passed as arguments: with the op's launch, and with a launch that
// only stores bounds.
constexpr int kCarriedLevels = 48;
constexpr int kCarriedBounds = 512;

// The bounds of the levels of inner places, the deepest level first.
struct Levels {
  int count;
  const int32_t* bounds;  // null where `carried` has them
  int32_t carried[kCarriedLevels + 1];

  __device__ __forceinline__ int bound(int level) const {
    return bounds ? bounds[level] : carried[level];
  }
};

struct Bounds {
  int32_t value[kCarriedBounds];
};

static __global__ void store_bounds_kernel(Bounds bounds, int count, int32_t* to) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = bounds.value[i];
}

// How many int32 values of device memory the levels take.
inline int64_t levels_memory(int64_t num_levels) {
  return num_levels <= kCarriedLevels ? 0 : num_levels + 1;
}

// If there are too many bounds for the op's launch, other launches carry them to `memory`: a copy
// from the host's memory would make the host wait.
inline Levels levels_of(const int64_t* level_ptr, int64_t num_levels, int32_t* memory,
                        cudaStream_t stream) {
  Levels levels = {};
  levels.count = static_cast<int>(num_levels);
  if (levels_memory(num_levels) == 0) {
    std::copy(level_ptr, level_ptr + num_levels + 1, levels.carried);
    return levels;
  }
  levels.bounds = memory;
  for (int64_t first = 0; first <= num_levels; first += kCarriedBounds) {
    Bounds bounds;
    const int64_t count = std::min<int64_t>(kCarriedBounds, num_levels + 1 - first);
    std::copy(level_ptr + first, level_ptr + first + count, bounds.value);
    HACE_LAUNCH(store_bounds_kernel, dim3(kCarriedBounds / 128), dim3(128), 0, stream, bounds,
                static_cast<int>(count), memory + first);
  }
  return levels;
}

// ---- what is at a place ----

constexpr int32_t kNothing = -1;

// The inverse of a vector of places, −1 among them: the entries at each place, in ascending order.
struct Inverse {
  int32_t* first;  // by place: its entry i, or -2 - i if others follow, or kNothing
  int32_t* next;   // by entry: the next one at its place, or kNothing; null: no place has several
  int32_t* lost;   // not kNothing if there are entries without a place

  // Calls visit(i) for every entry i at `place`.
  template <typename Visit>
  __device__ __forceinline__ void for_each_at(int place, Visit visit) const {
    int32_t i = first[place];
    const bool several = i < kNothing;
    if (several) i = -2 - i;
    while (i >= 0) {
      visit(i);
      i = several ? next[i] : kNothing;
    }
  }
};

// Everything is kNothing before. A place with several entries gets -2, in whatever order the
// threads come.
static __global__ void invert_kernel(const int32_t* place, int64_t size, Inverse inverse) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = start; i < size; i += step) {
    const int32_t p = place[i];
    if (p < 0)
      *inverse.lost = 1;
    else if (atomicCAS(inverse.first + p, kNothing, static_cast<int32_t>(i)) != kNothing)
      inverse.first[p] = -2;
  }
}

// Links the entries of places that have several; few tables have such places.
static __global__ void link_kernel(const int32_t* place, int64_t size, int64_t num_places,
                                   Inverse inverse) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= num_places || inverse.first[p] >= kNothing) return;
  int32_t after = kNothing;
  for (int64_t i = size - 1; i >= 0; --i)
    if (place[i] == p) {
      inverse.next[i] = after;
      after = static_cast<int32_t>(i);
    }
  inverse.first[p] = -2 - after;
}

// How many int32 values an inverse takes; `links` says that places may have several entries.
inline int64_t inverse_memory(int64_t num_places, int64_t size, bool links) {
  return num_places + 1 + (links ? size : 0);
}

inline Inverse invert(int64_t num_places, const int32_t* place, int64_t size, bool links,
                      int32_t* memory, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const auto blocks = [](int64_t threads) {
    return dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
  };
  Inverse inverse = {memory, nullptr, memory + num_places};
  cudaMemsetAsync(memory, 0xff, (num_places + 1) * sizeof(int32_t), stream);
  if (size == 0) return inverse;
  HACE_LAUNCH(invert_kernel, blocks(std::min<int64_t>(size, int64_t{1} << 20)), dim3(kThreads), 0,
              stream, place, size, inverse);
  if (!links) return inverse;
  inverse.next = memory + num_places + 1;
  HACE_LAUNCH(link_kernel, blocks(num_places), dim3(kThreads), 0, stream, place, size, num_places,
              inverse);
  return inverse;
}

// ---- rows ----

constexpr int kMaxRowThreads = 384;

// How many blocks of kMaxRowThreads threads should fit in a multiprocessor's registers.
template <typename Stored>
constexpr int kRowBlocks = sizeof(Stored) == sizeof(double) ? 1 : 2;

// A block works on one row at a time. The `row_bytes` that it stores of the row are in shared
// memory if they fit there, and otherwise in the block's own part of `memory`.
struct RowPlan {
  int threads;
  unsigned blocks;
  int64_t row_bytes;
  int64_t shared_bytes;  // 0: in memory
  int64_t memory_bytes;  // 0: in shared memory
};

struct RowMemory {
  unsigned char* memory;  // null: shared
  int64_t row_bytes;

  __device__ __forceinline__ unsigned char* of_block() const {
    HACE_DYNAMIC_SHARED(unsigned char, shared);
    return memory ? memory + blockIdx.x * row_bytes : shared;
  }
};

inline RowPlan plan_rows(const Tree& tree, int64_t num_rows, int64_t row_bytes,
                         const Device& device) {
  constexpr int64_t kPlacesAThread = 16;
  RowPlan plan = {};
  plan.threads = kWarp;
  while (plan.threads < kMaxRowThreads && plan.threads * kPlacesAThread < tree.num_places())
    plan.threads = std::min(2 * plan.threads, kMaxRowThreads);
  plan.row_bytes = (row_bytes + 15) / 16 * 16;
  const bool fits = plan.row_bytes + kStaticBytes <= device.shared_bytes;
  const int64_t blocks = std::min(num_rows, fits ? int64_t{1} << 30 : 4 * device.multiprocessors);
  plan.blocks = static_cast<unsigned>(blocks);
  (fits ? plan.shared_bytes : plan.memory_bytes) = fits ? plan.row_bytes : blocks * plan.row_bytes;
  return plan;
}

// Launches a kernel whose only argument, `problem`, contains a RowMemory.
template <typename Problem>
inline void launch_rows(void (*kernel)(Problem), const Problem& problem, const RowPlan& plan,
                        const Device& device) {
  if (plan.blocks == 0) return;
  allow_shared(kernel, plan.shared_bytes, device);
  HACE_LAUNCH(kernel, dim3(plan.blocks), dim3(plan.threads), static_cast<size_t>(plan.shared_bytes),
              device.stream, problem);
}

}  // namespace hace
