// The kernels of `path_measure` and `path_write`: what path_log_loss.cuh does with a whole row, for
// a tile of its columns. Between the two, hace_kernels/reference/path_stages.py resolves the rings.
//
// The ends of a row's intervals cut a tile into segments (path.cuh), of which most rows have one to
// three. To measure, a block takes a row and goes from segment to segment; to write, a warp takes a
// strip (strips.cuh) and each piece of it. The sums of strips are added up in double precision.
//
// There are no atomics, and only one block adds to a ring: the same input gives the same bits.
#pragma once

#include <algorithm>

#include "../path_tile.h"
#include "path_pieces.cuh"

namespace hace {

template <typename Stored>
__device__ __forceinline__ StripRow<Stored> row_of(const PathTile& tile, int64_t index) {
  const Stored* const logits = static_cast<const Stored*>(tile.logits) + index * tile.row_stride;
  return StripRow<Stored>(logits, nullptr, logits, static_cast<int>(tile.columns));
}

__device__ __forceinline__ Path path_of(const PathTile& tile, int64_t index) {
  Path path = {};
  path.start = tile.start + index * tile.num_entries;
  path.stop = tile.stop + index * tile.num_entries;
  path.num_intervals = static_cast<int>(tile.num_entries);
  path.columns = static_cast<int>(tile.columns);
  path.first = static_cast<int>(tile.first);
  return path;
}

template <typename Real>
__device__ __forceinline__ Mass<double> widened(Mass<Real> x) {
  return {{x.log_sum.max, x.log_sum.sum}, x.moment};
}

// ---- measure ----

constexpr int kTileWarps = 8;  // of a block, at most

// The mass of the columns [begin, end) that are in this warp's strips.
template <bool kMoment, typename Stored>
__device__ __forceinline__ Mass<double> measure_strips(const StripRow<Stored>& row, int begin,
                                                       int end) {
  Mass<double> mass = {empty_sum<double>(), 0};
  const int last = row.strip_of(end - 1);
  for (int strip = row.strip_of(begin) + warp_index(); strip <= last; strip += num_warps()) {
    work_t<Stored> x[kPerLane];
    row.load(strip, x);
    const int from = max(begin, row.begin(strip)), to = min(end, row.end(strip));
    const bool is_whole = to - from == row.end(strip) - row.begin(strip);
    const auto piece = is_whole ? measure_piece<kMoment, true>(row, strip, from, to, x)
                                : measure_piece<kMoment, false>(row, strip, from, to, x);
    mass = merge<kMoment>(mass, widened(piece));
  }
  return mass;
}

// The masses of the block's warps, merged, in its first thread.
template <bool kMoment>
__device__ __forceinline__ Mass<double> block_merge(Mass<double> mass) {
  HACE_SHARED(Mass<double>, of_warp, kTileWarps);
  if (lane_index() == 0) of_warp[warp_index()] = mass;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < num_warps(); ++warp) mass = merge<kMoment>(mass, of_warp[warp]);
  __syncthreads();  // of_warp may be written again
  return mass;
}

// Merges a row of the tile into its rings.
template <typename Stored, bool kMoment>
__global__ void __launch_bounds__(kTileWarps* kWarp)
    measure_tile_kernel(PathTile tile, RingSums rings) {
  const int64_t index = blockIdx.x;
  const StripRow<Stored> row = row_of<Stored>(tile, index);
  const Path path = path_of(tile, index);
  const int last = path.segment_of(row.columns - 1);
  for (int segment = path.segment_of(0); segment <= last; ++segment) {
    const int begin = path.segment_begin(segment), end = path.segment_end(segment);
    if (begin >= end) continue;
    Mass<double> mass = block_merge<kMoment>(measure_strips<kMoment>(row, begin, end));
    if (threadIdx.x != 0) continue;
    const int64_t at = index * (tile.num_entries + 1) + path.ring_of(segment);
    auto* const top = static_cast<work_t<Stored>*>(rings.max) + at;
    mass = merge<kMoment>({{*top, rings.sum[at]}, kMoment ? rings.moment[at] : 0}, mass);
    *top = static_cast<work_t<Stored>>(mass.log_sum.max);
    rings.sum[at] = mass.log_sum.sum;
    if constexpr (kMoment) rings.moment[at] = mass.moment;
  }
}

// ---- write ----

template <typename Real>
struct RingFactor {
  Real shift, factor, offset, slope, middle;
};

template <typename Real>
__device__ __forceinline__ RingFactor<Real> factor_of(const RingFactors& rings, int64_t at) {
  RingFactor<Real> ring = {};
  ring.shift = static_cast<const Real*>(rings.shift)[at];
  ring.factor = static_cast<Real>(rings.factor[at]);
  ring.offset = static_cast<Real>(rings.offset[at]);
  if (rings.slope) {
    ring.slope = static_cast<Real>(rings.slope[at]);
    ring.middle = static_cast<Real>(rings.middle[at]);
  }
  return ring;
}

// If the factor is 0 the gradient is the offset, whatever the logit: rows that do not count may
// hold NaN.
template <typename Real>
__device__ __forceinline__ Real gradient_at(Real logit, const RingFactor<Real>& ring) {
  const Real above = logit - ring.shift;
  const Real gap = above > 0 ? Real(0) : above;  // logits that are computed again may round up
  const Real e = exp_of(gap);
  Real grad = ring.factor == 0 ? ring.offset : ring.factor * e + ring.offset;
  if (ring.slope != 0 && e != 0) grad += ring.slope * e * (gap - ring.middle);
  return grad;
}

// Writes the gradient of a row's strips, one strip per warp.
template <typename Stored>
__global__ void __launch_bounds__(kTileWarps* kWarp)
    write_tile_kernel(PathTile tile, RingFactors rings, TileGradient to, int64_t num_rows) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(tile.columns);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * num_warps() + warp_index();
  const int64_t index = warp / strips;
  if (index >= num_rows) return;
  const int strip = static_cast<int>(warp % strips);
  const StripRow<Stored> row = row_of<Stored>(tile, index);
  if (strip >= row.num_strips()) return;
  const Path path = path_of(tile, index);
  Real x[kPerLane];
  row.load(strip, x);
  for_pieces(row, strip, path, [&](int segment, int begin, int end) {
    const int64_t at = index * (tile.num_entries + 1) + path.ring_of(segment);
    const RingFactor<Real> ring = factor_of<Real>(rings, at);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (row.is_in(strip, i, begin, end)) x[i] = gradient_at(x[i], ring);
  });
  Stored* const grad = static_cast<Stored*>(to.grad) + index * to.row_stride;
  row.store(strip, x, grad, grad);
}

// ---- launches ----

template <typename Stored>
void launch_measure(const PathTile& tile, const RingSums& rings, int64_t num_rows,
                    cudaStream_t stream) {
  const int64_t strips = num_strips<Stored>(tile.columns);
  const dim3 grid(static_cast<unsigned>(num_rows));
  const dim3 block(static_cast<unsigned>(std::min<int64_t>(strips, kTileWarps) * kWarp));
  if (rings.moment)
    HACE_LAUNCH((measure_tile_kernel<Stored, true>), grid, block, 0, stream, tile, rings);
  else
    HACE_LAUNCH((measure_tile_kernel<Stored, false>), grid, block, 0, stream, tile, rings);
}

template <typename Stored>
void launch_write(const PathTile& tile, const RingFactors& rings, const TileGradient& to,
                  int64_t num_rows, cudaStream_t stream) {
  const int64_t warps = num_strips<Stored>(tile.columns) * num_rows;
  const dim3 grid(static_cast<unsigned>((warps + kTileWarps - 1) / kTileWarps));
  HACE_LAUNCH((write_tile_kernel<Stored>), grid, dim3(kTileWarps * kWarp), 0, stream, tile, rings,
              to, num_rows);
}

}  // namespace hace
