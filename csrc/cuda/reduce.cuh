// Sums, maxima and scans over the threads of a warp or a block, always in the same order.
#pragma once

#include "launch.cuh"

namespace hace {

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ __forceinline__ int num_warps() { return static_cast<int>(blockDim.x) / kWarp; }

template <typename Real>
__device__ __forceinline__ Real warp_sum(Real x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <typename Real>
__device__ __forceinline__ Real warp_max(Real x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// The sum over lanes 0 .. this one.
template <typename Real>
__device__ __forceinline__ Real warp_prefix_sum(Real x) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const Real before = __shfl_up_sync(kAllLanes, x, step);
    if (lane_index() >= step) x += before;
  }
  return x;
}

// The sum over a block of whole warps, in every thread.
template <typename Real>
__device__ __forceinline__ Real block_sum(Real x) {
  HACE_SHARED(Real, of_warp, kWarp);
  x = warp_sum(x);
  __syncthreads();  // threads may still be reading of_warp from an earlier call
  if (lane_index() == 0) of_warp[warp_index()] = x;
  __syncthreads();
  return warp_sum(lane_index() < num_warps() ? of_warp[lane_index()] : Real(0));
}

}  // namespace hace
