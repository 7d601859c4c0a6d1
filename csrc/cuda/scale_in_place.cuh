// The kernel of `scale_in_place`.
#pragma once

#include "element.cuh"

namespace hace {

constexpr int kScaleThreads = 256;

// grad *= factor. Where the factor is 1 this costs a launch but no memory traffic.
template <typename Stored>
__global__ void __launch_bounds__(kScaleThreads)
    scale_kernel(Stored* grad, const work_t<Stored>* factor, int64_t size) {
  const work_t<Stored> by = *factor;
  if (by == 1) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kScaleThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kScaleThreads + threadIdx.x;
  for (int64_t i = first; i < size; i += step) grad[i] = to_stored<Stored>(to_work(grad[i]) * by);
}

}  // namespace hace
