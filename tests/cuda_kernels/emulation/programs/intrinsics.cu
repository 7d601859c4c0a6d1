// Compares the results of intrinsics with the right ones and prints what is wrong. It would also be
// right on a GPU.
#include <cstdio>
#include <cstring>

#include "launch.cuh"

namespace {

__device__ int failures = 0;

#define EXPECT(condition)                                                                  \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      atomicAdd(&failures, 1);                                                             \
      printf("line %d, thread %u: not %s\n", __LINE__, static_cast<unsigned>(threadIdx.x), \
             #condition);                                                                  \
    }                                                                                      \
  } while (false)

constexpr unsigned kAll = 0xffffffffu;

template <typename T>
__global__ void shuffles() {
  const int lane = threadIdx.x % 32;
  const T mine = static_cast<T>(lane) * 3 - 7;
  const auto of = [](int other) { return static_cast<T>(other) * 3 - 7; };
  for (int width = 1; width <= 32; width *= 2) {
    const int first = lane / width * width, last = first + width - 1;
    for (int step = 0; step < 32; ++step) {
      const T to_all = __shfl_sync(kAll, mine, step, width);
      EXPECT(to_all == of(first + step % width));
      const T up = __shfl_up_sync(kAll, mine, step, width);
      EXPECT(up == of(lane - step >= first ? lane - step : lane));
      const T down = __shfl_down_sync(kAll, mine, step, width);
      EXPECT(down == of(lane + step <= last ? lane + step : lane));
      const T butterfly = __shfl_xor_sync(kAll, mine, step, width);
      EXPECT(butterfly == of((lane ^ step) <= last ? lane ^ step : lane));
    }
  }
  // The two halves of the warp take different branches of different lengths.
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  T x = mine;
  for (int i = 0; i < (lane < 16 ? 3 : 5); ++i) x = __shfl_xor_sync(half, x, 1);
  EXPECT(x == of(lane ^ 1));
}

__global__ void votes() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  EXPECT(__ballot_sync(kAll, lane % 3 == warp) == (0x49249249u << warp));
  EXPECT(__any_sync(kAll, lane == 31) == 1);
  EXPECT(__any_sync(kAll, 0) == 0);
  EXPECT(__all_sync(kAll, lane < 32) == 1);
  EXPECT(__all_sync(kAll, lane < 31) == 0);
  if (lane % 2) {
    EXPECT(__ballot_sync(0xaaaaaaaau, lane > 3) == 0xaaaaaaa0u);
    EXPECT(__all_sync(0xaaaaaaaau, lane % 2) == 1);
  }
  __syncwarp();
  EXPECT(__syncthreads_count(lane < 5) == 10);
  EXPECT(__syncthreads_or(threadIdx.x == 40) != 0);
  EXPECT(__syncthreads_or(0) == 0);
  EXPECT(__syncthreads_and(1) != 0);
  EXPECT(__syncthreads_and(threadIdx.x != 40) == 0);
}

// 48 threads: the second warp has 16 lanes.
__global__ void part_of_a_warp() {
  const unsigned lane = threadIdx.x % 32, mask = threadIdx.x < 32 ? kAll : 0xffffu;
  EXPECT(__shfl_xor_sync(mask, lane, 1) == (lane ^ 1));
  EXPECT(__ballot_sync(mask, 1) == mask);
  __syncwarp();
  __syncwarp(mask);
  EXPECT(__syncthreads_count(1) == 48);
}

__global__ void indices(int* seen) {
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  // A warp has 32 threads in this order, whatever the block's shape.
  EXPECT(__shfl_sync(kAll, thread, 0) == thread / 32 * 32);
  atomicAdd(seen + block * threads + thread, 1);
}

template <typename T>
__device__ T sum_through_shared(T x) {
  HACE_SHARED(T, values, 64);
  HACE_SHARED(T, total, 1);
  values[threadIdx.x] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    total[0] = 0;
    for (int i = 0; i < 64; ++i) total[0] += values[i];
  }
  __syncthreads();
  const T result = total[0];
  __syncthreads();
  return result;
}

__global__ void shared_arrays() {
  HACE_DYNAMIC_SHARED(double, dynamic);
  HACE_SHARED(int, here, 64);
  here[threadIdx.x] = threadIdx.x;
  dynamic[threadIdx.x] = threadIdx.x;
  EXPECT(sum_through_shared(static_cast<float>(threadIdx.x)) == 2016);
  EXPECT(sum_through_shared(static_cast<double>(blockIdx.x)) == 64 * blockIdx.x);
  EXPECT(sum_through_shared(1.0f) == 64);
  const int other = 63 - threadIdx.x;
  EXPECT(here[other] == other && dynamic[other] == other);
}

struct Sums {
  int i;
  unsigned u;
  unsigned long long ull;
  float f;
  double d;
  int largest, smallest;
  unsigned long long largest_ull;
  float by_cas;
  int lock, locked;
};

__global__ void atomics(Sums* sums) {
  const int i = threadIdx.x;
  atomicAdd(&sums->i, i);
  atomicAdd(&sums->u, 2u);
  atomicAdd(&sums->ull, 1ull << 40);
  atomicAdd(&sums->f, 0.5f);
  atomicAdd(&sums->d, 0.25);
  atomicMax(&sums->largest, i);
  atomicMin(&sums->smallest, -i);
  atomicMax(&sums->largest_ull, static_cast<unsigned long long>(i) << 33);
  auto* const bits = reinterpret_cast<unsigned*>(&sums->by_cas);
  for (unsigned old = *bits, seen;; old = seen) {
    seen = atomicCAS(bits, old, __float_as_uint(__uint_as_float(old) + 1));
    if (seen == old) break;
  }
  while (atomicCAS(&sums->lock, 0, 1)) {
  }
  __threadfence();
  ++*static_cast<volatile int*>(&sums->locked);
  __threadfence();
  atomicExch(&sums->lock, 0);
}

__global__ void sums_are(const Sums* sums) {
  EXPECT(sums->i == 4 * 2016);
  EXPECT(sums->u == 512);
  EXPECT(sums->ull == 256ull << 40);
  EXPECT(sums->f == 128);
  EXPECT(sums->d == 64);
  EXPECT(sums->largest == 63 && sums->smallest == -63);
  EXPECT(sums->largest_ull == 63ull << 33);
  EXPECT(sums->by_cas == 256);
  EXPECT(sums->locked == 256);
}

__global__ void scalars(float nan, float zero, int one) {
  EXPECT(__popc(0xf0f0u * one) == 8 && __popcll(~0ull * one) == 64);
  EXPECT(__ffs(8 * one) == 4 && __ffs(0 * one) == 0 && __clz(one) == 31 && __clz(one - 1) == 32);
  EXPECT(__float_as_int(one * 1.0f) == 0x3f800000 && __int_as_float(0x40000000 * one) == 2);
  EXPECT(__float_as_uint(-zero) == 0x80000000u && __uint_as_float(0x3f000000u * one) == 0.5f);
  EXPECT(__double_as_longlong(one * 1.0) == 0x3ff0000000000000ll);
  EXPECT(__longlong_as_double(0x4000000000000000ll * one) == 2);
  EXPECT(min(one, 2) == 1 && max(-one, 2) == 2 && min(one * 1.0f, 2.0f) == 1);
  EXPECT(max(one, 2u) == 2u && min(-one, 2u) == 2u && max(one * 1.0f, 2.0) == 2.0);
  EXPECT(min(1ll * one, 2ll) == 1 && max(1ul * one, 2ul) == 2);
  EXPECT(max(nan, one * 1.0f) == 1 && min(one * 1.0, static_cast<double>(nan)) == 1);
  EXPECT(fmaxf(nan, 1) == 1 && isnan(nan) && isinf(INFINITY * one) && !isfinite(nan));
  EXPECT(fmaf(3, 4, 5 * one) == 17 && exp2f(3 * one) == 8 && expf(zero) == 1);
  EXPECT(logf(one) == 0 && log1pf(zero) == 0 && fabsf(rsqrtf(4 * one) - 0.5f) < 1e-6f);
  EXPECT(fabsf(__expf(one) - 2.718282f) < 1e-5f && fabsf(__logf(2 * one) - 0.693147f) < 1e-6f);
  const __half h = __float2half(0.1f * one);
  EXPECT(__half2float(h) == 0.0999755859375f && sizeof(__half2) == 4 && alignof(__half2) == 4);
  EXPECT(__bfloat162float(__float2bfloat16(0.1f * one)) == 0.10009765625f);
  const __half2 pair = __floats2half2_rn(1.5f * one, -2);
  EXPECT(__low2float(pair) == 1.5f && __high2float(pair) == -2 && __half2float(pair.y) == -2);
  EXPECT(alignof(float2) == 8 && alignof(float4) == 16 && alignof(double2) == 16);
  EXPECT(sizeof(float3) == 12 && alignof(int2) == 8 && alignof(uint4) == 16);
  const float4 v = make_float4(1, 2, 3, 4 * one);
  EXPECT(v.x == 1 && v.w == 4 && make_int2(5, 6 * one).y == 6 && warpSize == 32);
}

}  // namespace

int main() {
  HACE_LAUNCH(shuffles<int>, 2, 64, 0, nullptr);
  HACE_LAUNCH(shuffles<unsigned>, 2, 64, 0, nullptr);
  HACE_LAUNCH(shuffles<long long>, 2, 64, 0, nullptr);
  HACE_LAUNCH(shuffles<unsigned long long>, 2, 64, 0, nullptr);
  HACE_LAUNCH(shuffles<float>, 2, 64, 0, nullptr);
  HACE_LAUNCH(shuffles<double>, 2, 64, 0, nullptr);
  HACE_LAUNCH(votes, 1, 64, 0, nullptr);
  HACE_LAUNCH(part_of_a_warp, 3, 48, 0, nullptr);
  HACE_LAUNCH(shared_arrays, 3, 64, 64 * sizeof(double), nullptr);
  HACE_LAUNCH(scalars, 1, 1, 0, nullptr, NAN, 0.0f, 1);

  constexpr int kIndices = 2 * 3 * 4 * 8 * 4 * 3;
  int seen[kIndices], *device_seen;
  cudaMalloc(&device_seen, sizeof(seen));
  cudaMemsetAsync(device_seen, 0, sizeof(seen), nullptr);
  HACE_LAUNCH(indices, dim3(2, 3, 4), dim3(8, 4, 3), 0, nullptr, device_seen);
  cudaMemcpyAsync(seen, device_seen, sizeof(seen), cudaMemcpyDeviceToHost, nullptr);
  cudaStreamSynchronize(nullptr);
  for (int i = 0; i < kIndices; ++i) {
    if (seen[i] != 1) std::printf("index %d was seen %d times\n", i, seen[i]);
  }
  cudaFree(device_seen);

  Sums* sums;
  cudaMalloc(&sums, sizeof(Sums));
  cudaMemset(sums, 0, sizeof(Sums));
  HACE_LAUNCH(atomics, 4, 64, 0, nullptr, sums);
  HACE_LAUNCH(sums_are, 1, 1, 0, nullptr, sums);
  cudaFree(sums);

  cudaDeviceSynchronize();
  std::printf("%s\n", cudaGetErrorName(cudaGetLastError()));
  return 0;
}
