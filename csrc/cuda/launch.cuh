// What a kernel needs of CUDA itself. The tests define the same names otherwise, to compile the
// kernels' own source for the CPU (tests/cuda_kernels/emulation/).
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// An array shared by the threads of a block.
#define HACE_SHARED(type, name, count) __shared__ type name[count]

// The shared memory whose size the launch gives; at most once per kernel.
#define HACE_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char hace_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(hace_dynamic_shared)

// Templates go in parentheses: HACE_LAUNCH((kernel<float, 4>), grid, block, bytes, stream, args).
#define HACE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

#else

#include "cuda_emulation.h"

#endif

#include <cstdint>

namespace hace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The stream that launches run on, and the limits of its GPU.
struct Device {
  cudaStream_t stream;
  int64_t shared_bytes;  // the most that a block may have
  int64_t l2_bytes;
  int64_t multiprocessors;
};

inline Device device_of(int index, cudaStream_t stream) {
  int shared = 0, l2 = 0, multiprocessors = 0;
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, index);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index);
  return {stream, shared, l2, multiprocessors};
}

// An upper bound of the bytes of shared memory that kernels declare statically.
constexpr int64_t kStaticBytes = 4096;

// Lets blocks of a kernel have this much dynamic shared memory; up to 48 KiB are always allowed. It
// allows all that the device has: another thread may launch the same kernel with less meanwhile.
template <typename Kernel>
void allow_shared(Kernel* kernel, int64_t bytes, const Device& device) {
  if (bytes + kStaticBytes > (int64_t{48} << 10))
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(device.shared_bytes - kStaticBytes));
}

}  // namespace hace
