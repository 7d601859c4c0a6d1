// Sums of exponentials as pairs (max, sum) that mean sum * exp(max).
//
// The max is the largest logit of the sum, so that no pair overflows or underflows. The empty sum
// is (-inf, 0).
#pragma once

#include "element.cuh"
#include "reduce.cuh"

namespace hace {

template <typename Real>
struct LogSum {
  Real max, sum;
};

template <typename Real>
__device__ __forceinline__ LogSum<Real> empty_sum() {
  return {-infinity<Real>(), Real(0)};
}

// A maximum that is safe to subtract: a number in the place of -inf, the maximum of an empty sum.
template <typename Real>
__device__ __forceinline__ Real finite(Real top) {
  return top == -infinity<Real>() ? Real(0) : top;
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> merge(LogSum<Real> a, LogSum<Real> b) {
  const Real top = max(a.max, b.max);
  const Real shift = finite(top);
  return {top, a.sum * exp_of(a.max - shift) + b.sum * exp_of(b.max - shift)};
}

// a / b; infinite where the type cannot hold it.
template <typename Real>
__device__ __forceinline__ Real ratio(LogSum<Real> a, LogSum<Real> b) {
  return a.sum == 0 ? Real(0) : a.sum / b.sum * exp_of_difference(a.max, finite(b.max));
}

// log(1 + a / b).
template <typename Real>
__device__ __forceinline__ Real log_one_plus_ratio(LogSum<Real> a, LogSum<Real> b) {
  const Real q = ratio(a, b);
  return q < Real(1e30) ? log1p_of(q) : (a.max - b.max) + log_of(a.sum / b.sum);
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> shuffle_up(LogSum<Real> x, int step) {
  return {__shfl_up_sync(kAllLanes, x.max, step), __shfl_up_sync(kAllLanes, x.sum, step)};
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> broadcast_from(LogSum<Real> x, int lane) {
  return {__shfl_sync(kAllLanes, x.max, lane), __shfl_sync(kAllLanes, x.sum, lane)};
}

// All lanes' pairs merged, in every lane. It takes one exponential per lane.
template <typename Real>
__device__ __forceinline__ LogSum<Real> warp_merge(LogSum<Real> x) {
  const Real top = warp_max(x.max);
  return {top, warp_sum(x.sum * exp_of(x.max - finite(top)))};
}

// The pairs of lanes 0 .. this one, merged.
template <typename Real>
__device__ __forceinline__ LogSum<Real> warp_prefix_merge(LogSum<Real> x) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const LogSum<Real> before = shuffle_up(x, step);
    if (lane_index() >= step) x = merge(before, x);
  }
  return x;
}

}  // namespace hace
