// Sums of exponentials as pairs (top, total) that mean total * exp(top).
//
// A top is the largest logit of its sum, so that no pair overflows or underflows. A pair of nothing
// is (-inf, 0).
#pragma once

#include "element.cuh"
#include "reduce.cuh"

namespace hace {

template <typename Real>
struct LogSum {
  Real top, total;
};

template <typename Real>
__device__ __forceinline__ LogSum<Real> empty_sum() {
  return {-infinity<Real>(), Real(0)};
}

// A top as it may be subtracted: that of nothing is as good as any.
template <typename Real>
__device__ __forceinline__ Real finite(Real top) {
  return top == -infinity<Real>() ? Real(0) : top;
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> merge(LogSum<Real> a, LogSum<Real> b) {
  const Real top = max(a.top, b.top);
  const Real shift = finite(top);
  return {top, a.total * exp_of(a.top - shift) + b.total * exp_of(b.top - shift)};
}

// a / b; infinite where that is beyond the type.
template <typename Real>
__device__ __forceinline__ Real ratio(LogSum<Real> a, LogSum<Real> b) {
  return a.total == 0 ? Real(0) : a.total / b.total * exp_of(a.top - finite(b.top));
}

// log(1 + a / b).
template <typename Real>
__device__ __forceinline__ Real log_one_plus_ratio(LogSum<Real> a, LogSum<Real> b) {
  const Real q = ratio(a, b);
  return q < Real(1e30) ? log1p_of(q) : (a.top - b.top) + log_of(a.total / b.total);
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> shuffle_up(LogSum<Real> x, int step) {
  return {__shfl_up_sync(kAllLanes, x.top, step), __shfl_up_sync(kAllLanes, x.total, step)};
}

template <typename Real>
__device__ __forceinline__ LogSum<Real> broadcast_from(LogSum<Real> x, int lane) {
  return {__shfl_sync(kAllLanes, x.top, lane), __shfl_sync(kAllLanes, x.total, lane)};
}

// The merger of all lanes' pairs, in every lane: one exponential a lane.
template <typename Real>
__device__ __forceinline__ LogSum<Real> warp_merge(LogSum<Real> x) {
  const Real top = warp_max(x.top);
  return {top, warp_sum(x.total * exp_of(x.top - finite(top)))};
}

// The merger of lanes 0 .. this one.
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
