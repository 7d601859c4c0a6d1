// Softmax of rows, with everything that the kernels use: dynamic and static shared memory,
// shuffles, votes, and rows whose end is not aligned.
#include <cmath>
#include <cstdio>
#include <vector>

#include "launch.cuh"

namespace {

template <typename Combine>
__device__ float block_reduce(float x, float empty, Combine combine) {
  HACE_SHARED(float, of_warp, 32);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned lanes = min(32u, blockDim.x - warp * 32);
  const unsigned mask = 0xffffffffu >> (32 - lanes);
  for (unsigned step = 16; step > 0; step /= 2) {
    const float other = __shfl_down_sync(mask, x, step);
    if (lane + step < lanes) x = combine(x, other);
  }
  __syncthreads();
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  x = empty;
  for (unsigned w = 0; w * 32 < blockDim.x; ++w) x = combine(x, of_warp[w]);
  return x;
}

struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};

template <int kRows>
__global__ void __launch_bounds__(1024)
    softmax_kernel(const float* __restrict__ in, float* __restrict__ out, int columns) {
  HACE_DYNAMIC_SHARED(float, row);
  for (int r = 0; r < kRows; ++r) {
    const long long start = (static_cast<long long>(blockIdx.x) * kRows + r) * columns;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) row[c] = __ldg(in + start + c);
    float top = -INFINITY;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) top = fmaxf(top, row[c]);
    top = block_reduce(top, -INFINITY, Max());
    float total = 0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) total += expf(row[c] - top);
    total = block_reduce(total, 0, Sum());
    for (int c = threadIdx.x; c < columns; c += blockDim.x)
      out[start + c] = expf(row[c] - top) / total;
  }
}

}  // namespace

int main() {
  const int rows = 6, columns = 1001;
  std::vector<float> in(rows * columns);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>((i * 7919) % 1009) / 50;
  const size_t bytes = in.size() * sizeof(float);
  float *device_in, *device_out;
  cudaMalloc(&device_in, bytes);
  cudaMalloc(&device_out, bytes);
  cudaMemcpy(device_in, in.data(), bytes, cudaMemcpyHostToDevice);
  double worst = 0;
  for (int threads : {1, 7, 32, 33, 48, 96, 128, 1000, 1024}) {
    HACE_LAUNCH((softmax_kernel<2>), rows / 2, threads, columns * sizeof(float), nullptr, device_in,
                device_out, columns);
    std::vector<float> out(in.size());
    cudaMemcpy(out.data(), device_out, bytes, cudaMemcpyDeviceToHost);
    for (int r = 0; r < rows; ++r) {
      double total = 0;
      for (int c = 0; c < columns; ++c) total += std::exp(double(in[r * columns + c]));
      for (int c = 0; c < columns; ++c) {
        const double right = std::exp(double(in[r * columns + c])) / total;
        const double error = std::fabs(out[r * columns + c] - right) / right;
        if (!(error <= worst)) worst = error;
      }
    }
  }
  cudaFree(device_in);
  cudaFree(device_out);
  std::printf("%s, relative error %g\n", cudaGetErrorName(cudaGetLastError()), worst);
  return worst < 1e-5 ? 0 : 1;
}
