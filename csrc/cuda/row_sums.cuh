// What `path_log_loss` stores of a row's pieces and rings between its passes.
#pragma once

#include "log_sums.cuh"

namespace hace {

// Each field is an array.
template <typename Real>
struct RowSums {
  enum RowField { kRowMax, kSlope, kMiddle, kRowFields };
  enum RingField {
    kMax,
    kSum,
    kMoment,
    kInsideMax,
    kInsideSum,
    kOfRow,
    kOfInterval,
    kOffset,
    kRingFields
  };
  enum PieceField { kPieceMax, kPieceSum, kPieceMoment, kPieceFields };

  Real* of_row;
  int ring_step, piece_step;

  __host__ __device__ static int64_t num_values(int64_t strips, int64_t max_entries) {
    return kRowFields + kRingFields * (max_entries + 1) + kPieceFields * (strips + 2 * max_entries);
  }

  __device__ RowSums(Real* memory, int64_t strips, int max_entries)
      : of_row(memory),
        ring_step(max_entries + 1),
        piece_step(static_cast<int>(strips) + 2 * max_entries) {}

  __device__ Real& ring(RingField field, int r) const {
    return of_row[kRowFields + field * ring_step + r];
  }
  __device__ Real& piece(PieceField field, int f) const {
    return of_row[kRowFields + kRingFields * ring_step + field * piece_step + f];
  }
};

// A sum of exponentials and its moment sum_j e^(z_j - max) (z_j - max), which entropy needs.
template <typename Real>
struct Mass {
  LogSum<Real> log_sum;
  Real moment;
};

// The moment about another maximum; the gap may overflow between two finite numbers.
template <typename Real>
__device__ __forceinline__ Real moment_at(Mass<Real> x, Real max) {
  const Real gap = x.log_sum.sum == 0 ? Real(0) : x.log_sum.max - max, e = exp_of(gap);
  return e == 0 ? Real(0) : e * (x.moment + gap * x.log_sum.sum);
}

template <bool kEntropy, typename Real>
__device__ __forceinline__ Mass<Real> merge(Mass<Real> a, Mass<Real> b) {
  Mass<Real> x = {merge(a.log_sum, b.log_sum), Real(0)};
  if constexpr (kEntropy)
    x.moment = moment_at(a, finite(x.log_sum.max)) + moment_at(b, finite(x.log_sum.max));
  return x;
}

template <bool kEntropy, typename Real>
__device__ __forceinline__ Mass<Real> warp_merge(Mass<Real> a) {
  Mass<Real> x = {warp_merge(a.log_sum), Real(0)};
  if constexpr (kEntropy) x.moment = warp_sum(moment_at(a, finite(x.log_sum.max)));
  return x;
}

}  // namespace hace
