// Pieces: the parts of segments that are in a strip (path_log_loss.cuh), in a warp's registers.
#pragma once

#include "path.cuh"
#include "row_sums.cuh"
#include "strips.cuh"

namespace hace {

// Calls run(segment, begin, end) for each piece of a strip.
template <typename Stored, typename Run>
__device__ __forceinline__ void for_pieces(const StripRow<Stored>& row, int strip, const Path& path,
                                           Run run) {
  const int begin = row.begin(strip), end = row.end(strip);
  const int last = path.segment_of(end - 1);
  for (int segment = path.segment_of(begin); segment <= last; ++segment) {
    const int from = max(begin, path.segment_begin(segment));
    const int to = min(end, path.segment_end(segment));
    if (from < to) run(segment, from, to);
  }
}

// Replaces the logits of a piece by their exponentials relative to its maximum or, with entropy, by
// the logits minus that maximum. Logits outside of the row are -inf, so that they do not matter in
// a whole strip.
template <bool kEntropy, bool kWhole, typename Stored>
__device__ __forceinline__ Mass<work_t<Stored>> measure_piece(const StripRow<Stored>& row,
                                                              int strip, int begin, int end,
                                                              work_t<Stored> (&x)[kPerLane]) {
  using Real = work_t<Stored>;
  const auto in = [&](int i) { return kWhole || row.is_in(strip, i, begin, end); };
  Real top = -infinity<Real>();
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    if (in(i)) top = max(top, x[i]);
  top = warp_max(top);
  const Real shift = finite(top);
  Real sum = 0, moment = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (!in(i)) continue;
    const Real gap = x[i] - shift, e = exp_of(gap);
    sum += e;
    if constexpr (kEntropy) moment += e == 0 ? Real(0) : e * gap;
    x[i] = kEntropy ? gap : e;
  }
  if constexpr (kEntropy) moment = warp_sum(moment);
  return {{top, warp_sum(sum)}, moment};
}

template <bool kEntropy, typename Stored>
__device__ __forceinline__ void measure_strip(const StripRow<Stored>& row, int strip,
                                              const Path& path, const RowSums<work_t<Stored>>& sums,
                                              work_t<Stored> (&x)[kPerLane]) {
  using Sums = RowSums<work_t<Stored>>;
  const int strip_size = row.end(strip) - row.begin(strip);
  for_pieces(row, strip, path, [&](int segment, int begin, int end) {
    const auto mass = end - begin == strip_size
                          ? measure_piece<kEntropy, true>(row, strip, begin, end, x)
                          : measure_piece<kEntropy, false>(row, strip, begin, end, x);
    if (lane_index() != 0) return;
    const int piece = strip + segment;
    sums.piece(Sums::kPieceMax, piece) = mass.log_sum.max;
    sums.piece(Sums::kPieceSum, piece) = mass.log_sum.sum;
    if constexpr (kEntropy) sums.piece(Sums::kPieceMoment, piece) = mass.moment;
  });
}

// The gradient of a piece is of_piece e_j + offset, to which entropy adds
// p_j (log p_j - sum_k p_k log p_k) = slope e_j (z_j - max + below).
template <typename Real>
struct PieceGradient {
  Real of_piece, offset, slope, below;
};

template <bool kEntropy, typename Real>
__device__ __forceinline__ PieceGradient<Real> gradient_of(const RowSums<Real>& sums, int piece,
                                                           int ring) {
  using Sums = RowSums<Real>;
  const Real row_max = sums.of_row[Sums::kRowMax];
  const Real top = sums.piece(Sums::kPieceMax, piece);
  const Real to_row = exp_of_difference(top, row_max);
  const Real to_interval = exp_of(top - finite(sums.ring(Sums::kInsideMax, ring)));
  PieceGradient<Real> gradient = {};
  gradient.of_piece =
      sums.ring(Sums::kOfRow, ring) * to_row - sums.ring(Sums::kOfInterval, ring) * to_interval;
  gradient.offset = sums.ring(Sums::kOffset, ring);
  if constexpr (kEntropy) {
    gradient.slope = sums.of_row[Sums::kSlope] * to_row;
    gradient.below = to_row == 0 ? Real(0) : finite(top) - row_max + sums.of_row[Sums::kMiddle];
  }
  return gradient;
}

// Replaces what `measure_piece` left by that gradient.
template <bool kEntropy, bool kWhole, typename Stored>
__device__ __forceinline__ void differentiate_piece(const StripRow<Stored>& row, int strip,
                                                    int begin, int end,
                                                    const PieceGradient<work_t<Stored>>& gradient,
                                                    work_t<Stored> (&x)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (!kWhole && !row.is_in(strip, i, begin, end)) continue;
    const auto e = kEntropy ? exp_of(x[i]) : x[i];
    auto g = gradient.of_piece * e + gradient.offset;
    if constexpr (kEntropy)
      if (e != 0) g += gradient.slope * e * (x[i] + gradient.below);
    x[i] = g;
  }
}

template <bool kEntropy, typename Stored>
__device__ __forceinline__ void differentiate_strip(const StripRow<Stored>& row, int strip,
                                                    const Path& path,
                                                    const RowSums<work_t<Stored>>& sums,
                                                    work_t<Stored> (&x)[kPerLane]) {
  const int strip_size = row.end(strip) - row.begin(strip);
  for_pieces(row, strip, path, [&](int segment, int begin, int end) {
    const auto gradient = gradient_of<kEntropy>(sums, strip + segment, path.ring_of(segment));
    if (end - begin == strip_size)
      differentiate_piece<kEntropy, true>(row, strip, begin, end, gradient, x);
    else
      differentiate_piece<kEntropy, false>(row, strip, begin, end, gradient, x);
  });
}

}  // namespace hace
