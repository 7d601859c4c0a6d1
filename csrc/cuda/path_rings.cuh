// Rings: from the masses of a row's pieces to its loss and every ring's coefficients.
#pragma once

#include "path.cuh"
#include "row_sums.cuh"
#include "strips.cuh"

namespace hace {

template <bool kEntropy, typename Stored>
__device__ __forceinline__ Mass<work_t<Stored>> ring_mass(const StripRow<Stored>& row, int ring,
                                                          const Path& path,
                                                          const RowSums<work_t<Stored>>& sums) {
  using Real = work_t<Stored>;
  using Sums = RowSums<Real>;
  Mass<Real> mass = {empty_sum<Real>(), Real(0)};
  for (int side = ring == 0 ? 1 : -1; side <= 1; side += 2) {
    const int segment = path.num_intervals + side * ring;
    const int begin = path.segment_begin(segment), end = path.segment_end(segment);
    if (begin >= end) continue;
    const int last = row.strip_of(end - 1);
    for (int strip = row.strip_of(begin) + lane_index(); strip <= last; strip += kWarp) {
      const int piece = strip + segment;
      Mass<Real> more = {{sums.piece(Sums::kPieceMax, piece), sums.piece(Sums::kPieceSum, piece)},
                         Real(0)};
      if constexpr (kEntropy) more.moment = sums.piece(Sums::kPieceMoment, piece);
      mass = merge<kEntropy>(mass, more);
    }
  }
  return warp_merge<kEntropy>(mass);
}

// Computes the intervals' masses and A from the inside out. Every lane takes a ring; more than 32
// rings take several steps.
template <typename Real>
__device__ __forceinline__ LogSum<Real> sum_outwards(const Path& path, const RowSums<Real>& sums) {
  using Sums = RowSums<Real>;
  LogSum<Real> before = empty_sum<Real>();
  Real weights = 0;
  for (int first = 0; first <= path.num_intervals; first += kWarp) {
    const int ring = first + lane_index();
    const bool there = ring <= path.num_intervals;
    LogSum<Real> inside = empty_sum<Real>();
    if (there) inside = {sums.ring(Sums::kMax, ring), sums.ring(Sums::kSum, ring)};
    inside = merge(before, warp_prefix_merge(inside));
    const Real w = ring < path.num_intervals ? static_cast<Real>(path.weight[ring]) : Real(0);
    const Real up_to = warp_prefix_sum(w);
    if (there) {
      sums.ring(Sums::kInsideMax, ring) = inside.max;
      sums.ring(Sums::kInsideSum, ring) = inside.sum;
      sums.ring(Sums::kOfRow, ring) = weights + (up_to - w);
    }
    before = broadcast_from(inside, kWarp - 1);
    weights += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  return before;
}

// The recurrence b = lost + a * (b of the lane before), where lane 0 has `before` before it.
template <typename Real>
__device__ __forceinline__ Real warp_recurrence(Real a, Real lost, Real before) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const Real lost_before = __shfl_up_sync(kAllLanes, lost, step);
    const Real a_before = __shfl_up_sync(kAllLanes, a, step);
    if (lane_index() >= step) {
      lost += a * lost_before;
      a *= a_before;
    }
  }
  return lost + a * before;
}

// Computes the loss, B, and what intervals without mass add, from the outside in. Lane 0 has the
// outermost ring of a step.
//
// The loss of an interval without mass is infinite, and its weight in the gradient is spread evenly
// over its columns.
template <typename Real>
__device__ __forceinline__ Real sum_inwards(const Path& path, const RowSums<Real>& sums,
                                            LogSum<Real> all, Real factor) {
  using Sums = RowSums<Real>;
  const Real scale = all.sum > 0 ? factor / all.sum : not_a_number<Real>();
  LogSum<Real> outside = empty_sum<Real>(), next = all;
  Real next_b = 0, next_offset = 0, loss = 0;
  for (int first = path.num_intervals; first >= 0; first -= kWarp) {
    const int ring = first - lane_index();
    const bool there = ring >= 0, is_interval = there && ring < path.num_intervals;
    LogSum<Real> own = empty_sum<Real>(), inside = {Real(0), Real(1)};
    if (there) {
      own = {sums.ring(Sums::kMax, ring), sums.ring(Sums::kSum, ring)};
      inside = {sums.ring(Sums::kInsideMax, ring), sums.ring(Sums::kInsideSum, ring)};
    }
    const LogSum<Real> from_here = merge(outside, warp_prefix_merge(own));
    LogSum<Real> beyond = shuffle_up(from_here, 1), above = shuffle_up(inside, 1);
    if (lane_index() == 0) {
      beyond = outside;
      above = next;
    }
    const Real w = is_interval ? static_cast<Real>(path.weight[ring]) : Real(0);
    const bool alive = is_interval && inside.sum != 0, dead = is_interval && inside.sum == 0;
    Real lost = 0, spread = 0;
    if (alive) {
      loss += w * log_one_plus_ratio(beyond, inside);
      const Real q = ratio(beyond, inside);
      lost = w * (q < Real(1e30) ? q / (1 + q) : Real(1));
    }
    if (dead) {
      loss += w * infinity<Real>();
      spread = w / static_cast<Real>(path.stop[ring] - path.start[ring]);
    }
    const Real b = warp_recurrence(there ? ratio(inside, above) : Real(1), lost, next_b);
    const Real offset = next_offset - warp_prefix_sum(spread);
    if (there) {
      sums.ring(Sums::kOfRow, ring) *= scale;
      sums.ring(Sums::kOfInterval, ring) = inside.sum == 0 ? Real(0) : b * factor / inside.sum;
      sums.ring(Sums::kOffset, ring) = offset * factor;
    }
    outside = broadcast_from(from_here, kWarp - 1);
    next = broadcast_from(inside, kWarp - 1);
    next_b = __shfl_sync(kAllLanes, b, kWarp - 1);
    next_offset = __shfl_sync(kAllLanes, offset, kWarp - 1);
  }
  return warp_sum(loss);
}

// The same with eps in the logarithm, where, with c_i = w_i / (P_i + eps),
//
//   dL/dz_j = p_j (sum_{i < r} c_i P_i - sum_{i >= r} c_i (1 - P_i))
template <typename Real>
__device__ __forceinline__ Real sum_with_eps(const Path& path, const RowSums<Real>& sums,
                                             LogSum<Real> all, Real factor, Real eps) {
  using Sums = RowSums<Real>;
  const Real scale = all.sum > 0 ? factor / all.sum : not_a_number<Real>();
  LogSum<Real> outside = empty_sum<Real>();
  Real pushed = 0, loss = 0;
  for (int first = path.num_intervals; first >= 0; first -= kWarp) {
    const int ring = first - lane_index();
    const bool there = ring >= 0, is_interval = there && ring < path.num_intervals;
    LogSum<Real> own = empty_sum<Real>(), inside = own;
    if (there) {
      own = {sums.ring(Sums::kMax, ring), sums.ring(Sums::kSum, ring)};
      inside = {sums.ring(Sums::kInsideMax, ring), sums.ring(Sums::kInsideSum, ring)};
    }
    const LogSum<Real> from_here = merge(outside, warp_prefix_merge(own));
    LogSum<Real> beyond = shuffle_up(from_here, 1);
    if (lane_index() == 0) beyond = outside;
    const Real w = is_interval ? static_cast<Real>(path.weight[ring]) : Real(0);
    const Real p = ratio(inside, all);
    const Real c = is_interval ? w / (p + eps) : Real(0);
    if (is_interval) loss -= w * log_of(p + eps);
    const Real push = pushed + warp_prefix_sum(c * ratio(beyond, all));
    if (there) {
      sums.ring(Sums::kOfRow, ring) = c * p;
      sums.ring(Sums::kOfInterval, ring) = push;
    }
    outside = broadcast_from(from_here, kWarp - 1);
    pushed = __shfl_sync(kAllLanes, push, kWarp - 1);
  }
  __syncwarp();
  Real pulled = 0;
  for (int first = 0; first <= path.num_intervals; first += kWarp) {
    const int ring = first + lane_index();
    const bool there = ring <= path.num_intervals;
    const Real pull = there ? sums.ring(Sums::kOfRow, ring) : Real(0);
    const Real up_to = pulled + warp_prefix_sum(pull);
    if (there) {
      sums.ring(Sums::kOfRow, ring) = (up_to - pull - sums.ring(Sums::kOfInterval, ring)) * scale;
      sums.ring(Sums::kOfInterval, ring) = 0;
      sums.ring(Sums::kOffset, ring) = 0;
    }
    pulled = __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  return warp_sum(loss);
}

// Computes every ring's coefficients from the pieces, with the whole block. Returns the row's loss,
// without its weight, in the threads of the first warp. `factor` multiplies the gradient.
template <bool kEntropy, typename Stored>
__device__ __forceinline__ work_t<Stored> resolve(const StripRow<Stored>& row, const Path& path,
                                                  const RowSums<work_t<Stored>>& sums,
                                                  work_t<Stored> factor, work_t<Stored> entropy,
                                                  work_t<Stored> eps) {
  using Real = work_t<Stored>;
  using Sums = RowSums<Real>;
  __syncthreads();
  for (int ring = warp_index(); ring <= path.num_intervals; ring += num_warps()) {
    const Mass<Real> mass = ring_mass<kEntropy>(row, ring, path, sums);
    if (lane_index() != 0) continue;
    sums.ring(Sums::kMax, ring) = mass.log_sum.max;
    sums.ring(Sums::kSum, ring) = mass.log_sum.sum;
    if constexpr (kEntropy) sums.ring(Sums::kMoment, ring) = mass.moment;
  }
  __syncthreads();

  Real loss = 0;
  if (warp_index() == 0) {
    const LogSum<Real> all = sum_outwards(path, sums);
    __syncwarp();
    loss =
        eps > 0 ? sum_with_eps(path, sums, all, factor, eps) : sum_inwards(path, sums, all, factor);
    Real slope = 0, middle = 0;
    if constexpr (kEntropy) {
      // `middle` is such that log p_j - sum_i p_i log p_i = z_j - max + middle.
      Mass<Real> whole = {empty_sum<Real>(), Real(0)};
      for (int ring = lane_index(); ring <= path.num_intervals; ring += kWarp)
        whole = merge<true>(whole, {{sums.ring(Sums::kMax, ring), sums.ring(Sums::kSum, ring)},
                                    sums.ring(Sums::kMoment, ring)});
      whole = warp_merge<true>(whole);
      const Real negative_entropy = whole.moment / all.sum - log_of(all.sum);
      loss += entropy * negative_entropy;
      slope = entropy * (factor / all.sum);
      middle = -log_of(all.sum) - negative_entropy;
    }
    if (!(all.sum > 0)) loss = not_a_number<Real>();
    if (lane_index() == 0) {
      sums.of_row[Sums::kRowMax] = finite(all.max);
      sums.of_row[Sums::kSlope] = slope;
      sums.of_row[Sums::kMiddle] = middle;
    }
  }
  __syncthreads();
  return loss;
}

}  // namespace hace
