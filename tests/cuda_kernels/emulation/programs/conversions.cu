// The conversions of half types, applied to arrays that a test passes.
#include <cstdint>

#include "launch.cuh"

namespace {

template <typename From, typename To, typename Convert>
__global__ void convert_kernel(const From* from, To* to, int64_t size, Convert convert) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size) to[i] = convert(from[i]);
}

template <typename From, typename To, typename Convert>
void convert_all(const From* from, To* to, int64_t size, Convert convert) {
  const auto blocks = static_cast<unsigned>((size + 255) / 256);
  HACE_LAUNCH((convert_kernel<From, To, Convert>), blocks, 256, 0, nullptr, from, to, size,
              convert);
}

struct HalfToFloat {
  __device__ float operator()(uint16_t bits) const { return __half2float(__ushort_as_half(bits)); }
};
struct BFloat16ToFloat {
  __device__ float operator()(uint16_t bits) const {
    return __bfloat162float(__ushort_as_bfloat16(bits));
  }
};
struct FloatToHalf {
  __device__ uint16_t operator()(float x) const { return __half_as_ushort(__float2half_rn(x)); }
};
struct FloatToBFloat16 {
  __device__ uint16_t operator()(float x) const {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
};
struct DoubleToHalf {
  __device__ uint16_t operator()(double x) const { return __half_as_ushort(__double2half(x)); }
};

}  // namespace

extern "C" {
void half_to_float(const uint16_t* from, float* to, int64_t size) {
  convert_all(from, to, size, HalfToFloat());
}
void bfloat16_to_float(const uint16_t* from, float* to, int64_t size) {
  convert_all(from, to, size, BFloat16ToFloat());
}
void float_to_half(const float* from, uint16_t* to, int64_t size) {
  convert_all(from, to, size, FloatToHalf());
}
void float_to_bfloat16(const float* from, uint16_t* to, int64_t size) {
  convert_all(from, to, size, FloatToBFloat16());
}
void double_to_half(const double* from, uint16_t* to, int64_t size) {
  convert_all(from, to, size, DoubleToHalf());
}
}
