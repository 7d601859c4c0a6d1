// Kernels with one mistake each; the first argument says which one to run. Exits with 3 if the
// numbers are wrong, and with 4 if the launch was refused.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "launch.cuh"

namespace {

constexpr int kThreads = 64;

__global__ void correct(float* out) {
  HACE_SHARED(float, values, kThreads);
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
    __syncthreads();
  }
}

__global__ void missing_barrier(float* out) {
  HACE_SHARED(float, values, kThreads);
  values[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
}

// This is right only if each thread runs before the next one.
__global__ void missing_second_barrier(float* out) {
  HACE_SHARED(float, values, kThreads);
  const int thread = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    values[thread] = thread + round;
    __syncthreads();
    if (round == 0) out[thread] = thread < 62 ? values[thread + 1] : (thread + 1) % kThreads;
  }
}

// This is right only if the blocks run in order.
__global__ void race_of_blocks(float* out) {
  out[threadIdx.x] = blockIdx.x == 0 ? -1 : static_cast<int>(threadIdx.x + 1) % kThreads;
}

__global__ void divergent_barrier(float* out) {
  if (threadIdx.x < 40) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}

__global__ void early_exit(float* out) {
  if (threadIdx.x >= 50) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void absent_lane(float* out) {
  if (threadIdx.x % 32 == 31) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

__global__ void lanes_elsewhere(float* out) {
  if (threadIdx.x % 2) {
    __syncwarp();
  } else {
    out[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
  }
  __syncthreads();
}

__global__ void warp_at_barrier(float* out) {
  if (threadIdx.x % 32 < 8) out[threadIdx.x] = __any_sync(0xffffffffu, 1);
  __syncthreads();
}

__global__ void mask_without_caller(float* out) {
  out[threadIdx.x] = __shfl_sync(0x7fffffffu, 1.0f, 0);
}

__global__ void width_of_five(float* out) {
  out[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0, 5);
}

// The lane whose value is read does not take part in the shuffle.
__global__ void lane_outside_mask(float* out) {
  float x = (threadIdx.x + 1) % kThreads;
  if (threadIdx.x % 32 < 16) x += 0 * __shfl_down_sync(0xffffu, x, 16);
  out[threadIdx.x] = x;
}

__global__ void static_out_of_bounds(float* out) {
  HACE_SHARED(float, values, kThreads);
  HACE_SHARED(float, others, kThreads);
  values[threadIdx.x + 1] = threadIdx.x;
  others[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads] + others[0];
}

__global__ void dynamic_out_of_bounds(float* out) {
  HACE_DYNAMIC_SHARED(float, values);
  values[threadIdx.x + 1] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % kThreads];
}

__global__ void dynamic_read_out_of_bounds(float* out) {
  HACE_DYNAMIC_SHARED(float, values);
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void global_out_of_bounds(float* out) { out[threadIdx.x + 1] = threadIdx.x; }

__global__ void misaligned_global(float* out) {
  if (threadIdx.x < 15) *reinterpret_cast<float4*>(out + 4 * threadIdx.x + 1) = float4{};
}

__global__ void misaligned_shared(float* out) {
  HACE_SHARED(float, values, kThreads);  // an array of floats may be aligned too little for float4
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(values) = float4{};
  __syncthreads();
  out[threadIdx.x] = values[0];
}

__global__ void uninitialised_shared(float* out) {
  HACE_SHARED(float, total, 1);
  if (threadIdx.x == 0) total[0] += 1;
  __syncthreads();
  out[threadIdx.x] = (threadIdx.x + 1) % kThreads + 0 * total[0];
}

// The next block does not find what one block wrote.
__global__ void shared_of_another_block(float* out) {
  HACE_SHARED(float, total, 1);
  if (blockIdx.x == 0 && threadIdx.x == 0) total[0] = 0;
  __syncthreads();
  if (blockIdx.x == 1) out[threadIdx.x] = (threadIdx.x + 1) % kThreads + total[0];
}

__global__ void too_much_shared(float* out) {
  HACE_SHARED(float, a, 8 * 1024);
  HACE_SHARED(float, b, 4 * 1024);
  HACE_DYNAMIC_SHARED(float, c);
  a[threadIdx.x] = b[threadIdx.x] = c[0] = 0;
  out[threadIdx.x] = a[0] + b[0];
}

__global__ void lock_never_freed(float* out) {
  HACE_SHARED(int, lock, 1);
  if (threadIdx.x == 0) lock[0] = 1;
  __syncthreads();
  while (atomicCAS(lock, 0, 1)) {
  }
  out[threadIdx.x] = 0;
}

__global__ void overflow_of_the_stack(float* out) {
  volatile char large[300 * 1024];
  for (int i = 300 * 1024 - 1; i >= 0; i -= 1024) large[i] = 0;
  out[threadIdx.x] = large[0];
}

__global__ void trap(float*) { __trap(); }

struct Case {
  const char* name;
  void (*run)(float*);
};

#define CASE_OF(kernel, blocks, threads, bytes) \
  {#kernel, [](float* out) { HACE_LAUNCH(kernel, blocks, threads, bytes, nullptr, out); }}

const Case cases[] = {
    CASE_OF(correct, 2, kThreads, 0),
    CASE_OF(missing_barrier, 1, kThreads, 0),
    CASE_OF(missing_second_barrier, 1, kThreads, 0),
    CASE_OF(race_of_blocks, 2, kThreads, 0),
    CASE_OF(divergent_barrier, 1, kThreads, 0),
    CASE_OF(early_exit, 1, kThreads, 0),
    CASE_OF(absent_lane, 1, kThreads, 0),
    CASE_OF(lanes_elsewhere, 1, kThreads, 0),
    CASE_OF(warp_at_barrier, 1, kThreads, 0),
    CASE_OF(mask_without_caller, 1, kThreads, 0),
    CASE_OF(width_of_five, 1, kThreads, 0),
    CASE_OF(lane_outside_mask, 1, kThreads, 0),
    CASE_OF(static_out_of_bounds, 1, kThreads, 0),
    CASE_OF(dynamic_out_of_bounds, 1, kThreads, kThreads * sizeof(float)),
    CASE_OF(dynamic_read_out_of_bounds, 1, kThreads, kThreads * sizeof(float)),
    CASE_OF(global_out_of_bounds, 1, kThreads, 0),
    CASE_OF(misaligned_global, 1, kThreads, 0),
    CASE_OF(misaligned_shared, 1, kThreads, 0),
    CASE_OF(uninitialised_shared, 1, kThreads, 0),
    CASE_OF(shared_of_another_block, 2, kThreads, 0),
    CASE_OF(too_much_shared, 1, kThreads, 16),
    CASE_OF(lock_never_freed, 1, kThreads, 0),
    CASE_OF(overflow_of_the_stack, 1, kThreads, 0),
    CASE_OF(trap, 1, kThreads, 0),
};

}  // namespace

int main(int count, char** arguments) {
  const std::string asked = count > 1 ? arguments[1] : "";
  for (const Case& one : cases) {
    if (asked != one.name) continue;
    float *device, host[kThreads];
    cudaMalloc(&device, sizeof(host));
    one.run(device);
    if (cudaGetLastError() != cudaSuccess) return 4;
    cudaMemcpy(host, device, sizeof(host), cudaMemcpyDeviceToHost);
    cudaFree(device);
    for (int i = 0; i < kThreads; ++i) {
      if (host[i] != (i + 1) % kThreads) return 3;
    }
    return 0;
  }
  std::printf("no case %s\n", asked.c_str());
  return 2;
}
