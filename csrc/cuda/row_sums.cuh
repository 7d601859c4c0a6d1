// What is known of a row's fragments and rings between the passes of `path_log_loss`.
#pragma once

#include "log_sums.cuh"

namespace hace {

// An array of each field.
template <typename Real>
struct RowSums {
  enum RowField { kRowTop, kSlope, kMiddle, kRowFields };
  enum RingField {
    kTop,
    kTotal,
    kMoment,
    kInsideTop,
    kInsideTotal,
    kOfRow,
    kOfInterval,
    kOffset,
    kRingFields
  };
  enum FragmentField { kFragmentTop, kFragmentTotal, kFragmentMoment, kFragmentFields };

  Real* of_row;
  int ring_step, fragment_step;

  __host__ __device__ static int64_t num_values(int64_t strips, int64_t max_entries) {
    return kRowFields + kRingFields * (max_entries + 1) +
           kFragmentFields * (strips + 2 * max_entries);
  }

  __device__ RowSums(Real* memory, int64_t strips, int max_entries)
      : of_row(memory),
        ring_step(max_entries + 1),
        fragment_step(static_cast<int>(strips) + 2 * max_entries) {}

  __device__ Real& ring(RingField field, int r) const {
    return of_row[kRowFields + field * ring_step + r];
  }
  __device__ Real& fragment(FragmentField field, int f) const {
    return of_row[kRowFields + kRingFields * ring_step + field * fragment_step + f];
  }
};

// A sum of exponentials with its moment sum_j e^(z_j - top) (z_j - top), which entropy needs.
template <typename Real>
struct Mass {
  LogSum<Real> sum;
  Real moment;
};

// The moment about another top; the gap may be infinite between finite numbers.
template <typename Real>
__device__ __forceinline__ Real moment_at(Mass<Real> x, Real top) {
  const Real gap = x.sum.total == 0 ? Real(0) : x.sum.top - top, e = exp_of(gap);
  return e == 0 ? Real(0) : e * (x.moment + gap * x.sum.total);
}

template <bool kEntropy, typename Real>
__device__ __forceinline__ Mass<Real> merge(Mass<Real> a, Mass<Real> b) {
  Mass<Real> x = {merge(a.sum, b.sum), Real(0)};
  if constexpr (kEntropy)
    x.moment = moment_at(a, finite(x.sum.top)) + moment_at(b, finite(x.sum.top));
  return x;
}

template <bool kEntropy, typename Real>
__device__ __forceinline__ Mass<Real> warp_merge(Mass<Real> a) {
  Mass<Real> x = {warp_merge(a.sum), Real(0)};
  if constexpr (kEntropy) x.moment = warp_sum(moment_at(a, finite(x.sum.top)));
  return x;
}

}  // namespace hace
