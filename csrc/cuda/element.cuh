// The types of logits and gradients: their working types, conversions, and access by 16 bytes.
#pragma once

#include "../element.h"
#include "launch.cuh"

namespace hace {

template <typename Stored>
struct Work {
  using type = float;
};
template <>
struct Work<double> {
  using type = double;
};
template <typename Stored>
using work_t = typename Work<Stored>::type;

__device__ __forceinline__ float to_work(float x) { return x; }
__device__ __forceinline__ double to_work(double x) { return x; }
__device__ __forceinline__ float to_work(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_work(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Stored>
__device__ __forceinline__ Stored to_stored(work_t<Stored> x) {
  return x;
}
template <>
__device__ __forceinline__ __half to_stored<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 to_stored<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// The most that one load or store of a thread moves.
constexpr int kVectorBytes = 16;

template <typename Stored>
constexpr int kVector = kVectorBytes / static_cast<int>(sizeof(Stored));

template <typename Stored>
struct __align__(kVectorBytes) Vector {
  Stored element[kVector<Stored>];
};

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }

// exp(x - top) without the rounding of the difference, which alone would be 2e-6 of the exponential
// at a difference of 40. What it left out is found exactly (Knuth's two-sum).
template <typename Real>
__device__ __forceinline__ Real exp_of_difference(Real x, Real top) {
  const Real difference = x - top, of_top = difference - x;
  const Real rounding = (x - (difference - of_top)) - (top + of_top);
  const Real e = exp_of(difference);
  return e == 0 ? e : e * (1 + rounding);
}

// A product that is rounded before anything is added to it (not fused), so that equal masses
// cancel.
__device__ __forceinline__ double rounded_product(double x, double y) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(x, y);
#else
  return x * y;
#endif
}

// The maximum of no logits at all, and the loss of a row that is not valid.
template <typename Real>
__device__ __forceinline__ Real infinity() {
  return static_cast<Real>(INFINITY);
}
template <typename Real>
__device__ __forceinline__ Real not_a_number() {
  return static_cast<Real>(NAN);
}

// Calls run with a value of the element type.
template <typename Run>
auto for_element(Element element, Run run) {
  switch (element) {
    case Element::kFloat64:
      return run(double{});
    case Element::kBFloat16:
      return run(__nv_bfloat16{});
    case Element::kFloat16:
      return run(__half{});
    default:
      return run(float{});
  }
}

}  // namespace hace
