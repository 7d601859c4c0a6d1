// Prints the runtime's answer to launches that are too large, one per line, and the device's
// limits.
#include <cstdio>

#include "launch.cuh"

namespace {

__global__ void mark(int* runs) {
  HACE_DYNAMIC_SHARED(char, bytes);
  if (threadIdx.x == 0) {
    bytes[0] = 0;
    atomicAdd(runs, 1);
  }
}

int* runs;

void tell(const char* what) {
  cudaDeviceSynchronize();
  int count;
  cudaMemcpy(&count, runs, sizeof(count), cudaMemcpyDeviceToHost);
  cudaMemset(runs, 0, sizeof(count));
  const cudaError_t error = cudaPeekAtLastError();
  const bool same = error == cudaGetLastError() && cudaGetLastError() == cudaSuccess;
  std::printf("%s: %s, %d runs%s\n", what, cudaGetErrorName(error), count, same ? "" : "?");
}

void launch(const char* what, dim3 grid, dim3 block, size_t bytes) {
  HACE_LAUNCH(mark, grid, block, bytes, nullptr, runs);
  tell(what);
}

}  // namespace

int main() {
  cudaMalloc(&runs, sizeof(int));
  cudaMemset(runs, 0, sizeof(int));
  launch("fits", 2, 1024, 48 * 1024);
  launch("no blocks", 0, 32, 16);
  launch("no threads", 1, 0, 16);
  launch("threads", 1, 1025, 16);
  launch("threads in all", 1, dim3(64, 32), 16);
  launch("depth", 1, dim3(1, 1, 65), 16);
  launch("grid.y", dim3(1, 65536), 32, 16);
  launch("grid.z", dim3(1, 1, 65536), 32, 16);
  launch("shared", 1, 32, 48 * 1024 + 1);
  const hace::Device device = hace::device_of(0, nullptr);
  const int64_t dynamic = device.shared_bytes - hace::kStaticBytes;
  hace::allow_shared(mark, dynamic, device);
  hace::allow_shared(mark, 48 * 1024, device);  // as another thread may do
  launch("shared, less allowed meanwhile", 1, 32, static_cast<size_t>(dynamic));
  int most = 0, l2 = 0, multiprocessors = 0, major = 0, blocks = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, 0);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaFuncSetAttribute(mark, cudaFuncAttributeMaxDynamicSharedMemorySize, most + 1);
  tell("allow too much");
  cudaFuncSetAttribute(mark, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  launch("shared, allowed", 1, 32, most);
  launch("shared, beyond", 1, 32, most + 1);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, mark, 1024, 16);
  std::printf("device: %d shared, %d L2, %d multiprocessors, %d.x, %d blocks of 1024\n", most, l2,
              multiprocessors, major, blocks);
  cudaFree(runs);
  return 0;
}
