// What keeps the kernels from running on a GPU.

#include "launch.cuh"

namespace hace {

__global__ void present_kernel() {}

}  // namespace hace

// Null if the kernels run on the current device. Otherwise what CUDA says: it is compiled for other
// GPUs, or the driver is too old. hace_kernels/native.py calls it.
extern "C" __attribute__((visibility("default"))) const char* hace_cuda_lack() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, hace::present_kernel);
  cudaGetLastError();  // which a launch that comes later would find
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
