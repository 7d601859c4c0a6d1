// The functions of the CUDA runtime that surround a launch, for one small device.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "settings.h"
#include "vector_types.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault,
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace hace_emulation {

inline thread_local cudaError_t last_error = cudaSuccess;

inline cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// The most shared memory per block, with cudaFuncSetAttribute (by default an H200's) and without.
inline size_t max_shared_bytes() { return setting("HACE_EMULATED_SHARED_BYTES", 232448); }
inline size_t default_shared_bytes() { return std::min<size_t>(48 * 1024, max_shared_bytes()); }
inline constexpr int kThreadsPerMultiprocessor = 2048;

// The dynamic shared memory that each kernel may have, as set by cudaFuncSetAttribute.
class SharedAllowances {
 public:
  void set(const void* kernel, size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    bytes_[kernel] = bytes;
  }
  size_t get(const void* kernel) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = bytes_.find(kernel);
    return found == bytes_.end() ? default_shared_bytes() : found->second;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<const void*, size_t> bytes_;
};
inline SharedAllowances shared_allowances;

}  // namespace hace_emulation

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = hace_emulation::last_error;
  hace_emulation::last_error = cudaSuccess;
  return error;
}
inline cudaError_t cudaPeekAtLastError() { return hace_emulation::last_error; }
inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
  }
  return "unrecognized error code";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return hace_emulation::remember(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
// The same for every device number, since a CPU tensor's device has none.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  using hace_emulation::setting;
  const size_t shared = hace_emulation::max_shared_bytes();
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(hace_emulation::default_shared_bytes());
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = static_cast<int>(setting("HACE_EMULATED_MULTIPROCESSORS", 4));
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = static_cast<int>(setting("HACE_EMULATED_L2_BYTES", 50 << 20));
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = hace_emulation::kThreadsPerMultiprocessor;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(shared + 1024);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(shared);
      return cudaSuccess;
  }
  return hace_emulation::remember(cudaErrorInvalidValue);
}

struct cudaFuncAttributes {};
// As on a GPU for which the kernels are not compiled, if HACE_EMULATED_OTHER_GPU is not 0.
template <typename... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(Parameters...)) {
  const bool other = hace_emulation::setting("HACE_EMULATED_OTHER_GPU", 0);
  return hace_emulation::remember(other ? cudaErrorNoKernelImageForDevice : cudaSuccess);
}
template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > hace_emulation::max_shared_bytes())
    return hace_emulation::remember(cudaErrorInvalidValue);
  hace_emulation::shared_allowances.set(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}
template <typename... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Parameters...),
                                                          int threads, size_t dynamic_bytes) {
  const size_t by_threads = hace_emulation::kThreadsPerMultiprocessor / threads;
  const size_t by_shared = (hace_emulation::max_shared_bytes() + 1024) / (dynamic_bytes + 1024);
  *blocks = static_cast<int>(std::min({by_threads, by_shared, size_t{32}}));
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const bool failed = posix_memalign(memory, 256, bytes);
  return hace_emulation::remember(failed ? cudaErrorMemoryAllocation : cudaSuccess);
}
template <typename T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(memory), bytes);
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t = nullptr) {
  return cudaMemset(memory, value, bytes);
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t = nullptr) {
  return cudaMemcpy(to, from, bytes, kind);
}
// There is nothing to wait for, since a launch has ended when it returns.
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
