// The kernels of `path_measure` and `path_write` for one instruction set (HACE_ISA names it): what
// path_log_loss_kernel.cpp, which has the derivation, does with a whole row, for a tile of its
// columns. Between the two, hace_kernels/reference/path_stages.py resolves the rings.
//
// Memory traffic of a row of the tile: measure reads the logits once from memory and once more from
// the first-level cache; write reads and writes them once. A tile that fits in the second-level
// cache is still there from the matrix product that computed it.

#include "path_tile_kernel.h"

#include <cmath>
#include <limits>

#include "exp.h"
#include "per_isa.h"
#include "vec.h"

namespace hace {
namespace {

// How many values are measured against one maximum. A float32 sum of so many loses few digits.
constexpr int64_t kRunColumns = 4096;

// A sum of exponentials exp(max) * sum, and its moment about max.
struct Sums {
  double max;
  double sum;
  double moment;
};

// `a` relative to a maximum that is at least its own.
inline Sums moved(Sums a, double max) {
  if (a.sum == 0 || a.max == max) return {max, a.sum, a.moment};
  const double gap = a.max - max;
  const double scale = std::exp(gap);
  if (scale == 0) return {max, scale * a.sum, 0};
  return {max, scale * a.sum, scale * (a.moment + gap * a.sum)};
}

inline Sums merge(Sums a, Sums b) {
  const double max = a.max > b.max ? a.max : b.max;
  a = moved(a, max);
  b = moved(b, max);
  return {max, a.sum + b.sum, a.moment + b.moment};
}

// The maximum. NaN values are ignored, because they show in the sum of exponentials.
template <typename Real, typename Stored>
inline Real max_of(const Stored* z, int64_t n) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr Real kLowest = -std::numeric_limits<Real>::infinity();
  // max(a, b) is b where either is NaN: with the running maximum second, NaN does not enter it.
  Vector<Real> best[4];
  for (auto& b : best) b = broadcast(kLowest);
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) best[k] = max(Vector<Real>(load(z + i + k * kLanes)), best[k]);
  for (; i + kLanes <= n; i += kLanes) best[0] = max(Vector<Real>(load(z + i)), best[0]);
  if (i < n) best[1] = max(first_lanes<Real>(load_first(z + i, n - i), n - i, kLowest), best[1]);
  return horizontal_max<Real>(max(max(best[0], best[1]), max(best[2], best[3])));
}

template <bool kMoment, typename Real, typename Stored>
inline Sums measure_run(const Stored* z, int64_t n) {
  constexpr int kLanes = Lanes<Real>::kCount;
  const Real top = max_of<Real>(z, n);
  const Real shift = top == -std::numeric_limits<Real>::infinity() ? 0 : top;
  Vector<Real> sums[4] = {}, moments[4] = {};
  const auto add = [&](Vector<Real> exps, Vector<Real> gap, int k) {
    sums[k] += exps;
    if constexpr (kMoment) moments[k] += exps == 0 ? Vector<Real>{} : exps * gap;
  };
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) {
      const Vector<Real> gap = load(z + i + k * kLanes) - shift;
      add(exp_nonpositive(gap), gap, k);
    }
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    const Vector<Real> gap = load_first(z + i, left) - shift;
    add(first_lanes<Real>(exp_nonpositive(gap), left, 0), gap, 0);
  }
  Sums found;
  found.max = top;
  found.sum = horizontal_sum<Real>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  found.moment =
      kMoment ? horizontal_sum<Real>((moments[0] + moments[1]) + (moments[2] + moments[3])) : 0;
  return found;
}

template <typename Real, typename Stored>
inline void write_run(const Stored* z, int64_t n, Real shift, Real factor, Real offset, Stored* g) {
  constexpr int kLanes = Lanes<Real>::kCount;
  // Logits that are computed again may, by rounding, be above the largest that was measured.
  const auto grad = [&](Vector<Real> value) {
    const Vector<Real> gap = value - shift;
    return exp_nonpositive(gap > 0 ? Vector<Real>{} : gap) * factor + offset;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Vector<Real> a = load(z + i), b = load(z + i + kLanes);
    store(g + i, grad(a));
    store(g + i + kLanes, grad(b));
  }
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    store_first(g + i, grad(load_first(z + i, left)), left);
  }
}

template <typename Real, typename Stored>
inline void write_tilted_run(const Stored* z, int64_t n, Real shift, Real factor, Real offset,
                             Real slope, Real middle, Stored* g) {
  constexpr int kLanes = Lanes<Real>::kCount;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    const Vector<Real> above = load_first(z + i, left) - shift;
    const Vector<Real> gap = above > 0 ? Vector<Real>{} : above;
    const Vector<Real> exps = exp_nonpositive(gap);
    const Vector<Real> tilt = exps == 0 ? Vector<Real>{} : exps * ((gap - middle) * slope);
    store_first(g + i, exps * factor + tilt + offset, left);
  }
}

template <typename Stored>
inline void fill_run(Stored* g, int64_t n, work_t<Stored> value) {
  using Real = work_t<Stored>;
  constexpr int kLanes = Lanes<Real>::kCount;
  for (int64_t i = 0; i < n; i += kLanes)
    store_first(g + i, broadcast<Real>(value), n - i < kLanes ? n - i : kLanes);
}

// Calls visit(ring, begin, end) for the segments of the tile, columns [begin, end), from left to
// right. They belong to rings K, K-1, .., 0, .., K-1, K.
template <typename Visit>
inline void for_stretches(const PathTile& tile, int64_t row, Visit visit) {
  const int64_t num_entries = tile.num_entries;
  const int32_t* start = tile.start + row * num_entries;
  const int32_t* stop = tile.stop + row * num_entries;
  int64_t begin = 0;
  for (int64_t s = 0; s <= 2 * num_entries && begin < tile.columns; ++s) {
    const int64_t ring = s < num_entries ? num_entries - s : s - num_entries;
    int64_t end = s < num_entries      ? start[ring - 1] - tile.first
                  : ring < num_entries ? stop[ring] - tile.first
                                       : tile.columns;
    if (end > tile.columns) end = tile.columns;
    if (end <= begin) continue;
    visit(ring, begin, end);
    begin = end;
  }
}

template <typename Stored>
struct TileKernel {
  using Real = work_t<Stored>;

  static const Stored* row_of(const PathTile& tile, int64_t row) {
    return static_cast<const Stored*>(tile.logits) + row * tile.row_stride;
  }

  static void measure(const PathTile& tile, const RingSums& rings, int64_t first, int64_t last) {
    if (rings.moment)
      measure<true>(tile, rings, first, last);
    else
      measure<false>(tile, rings, first, last);
  }

  template <bool kMoment>
  static void measure(const PathTile& tile, const RingSums& rings, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const Stored* z = row_of(tile, row);
      for_stretches(tile, row, [&](int64_t ring, int64_t begin, int64_t end) {
        const int64_t at = row * (tile.num_entries + 1) + ring;
        Real& max = static_cast<Real*>(rings.max)[at];
        Sums sums = {max, rings.sum[at], kMoment ? rings.moment[at] : 0};
        for (; begin < end; begin += kRunColumns) {
          const int64_t size = end - begin < kRunColumns ? end - begin : kRunColumns;
          sums = merge(sums, measure_run<kMoment, Real>(z + begin, size));
        }
        max = static_cast<Real>(sums.max);
        rings.sum[at] = sums.sum;
        if (kMoment) rings.moment[at] = sums.moment;
      });
    }
  }

  static void write(const PathTile& tile, const RingFactors& rings, const TileGradient& to,
                    int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const Stored* z = row_of(tile, row);
      Stored* g = static_cast<Stored*>(to.grad) + row * to.row_stride;
      for_stretches(tile, row, [&](int64_t ring, int64_t begin, int64_t end) {
        const int64_t at = row * (tile.num_entries + 1) + ring, size = end - begin;
        const Real shift = static_cast<const Real*>(rings.shift)[at];
        const Real factor = static_cast<Real>(rings.factor[at]);
        const Real offset = static_cast<Real>(rings.offset[at]);
        const Real slope = rings.slope ? static_cast<Real>(rings.slope[at]) : 0;
        if (slope != 0)
          write_tilted_run(z + begin, size, shift, factor, offset, slope,
                           static_cast<Real>(rings.middle[at]), g + begin);
        else if (factor != 0)
          write_run(z + begin, size, shift, factor, offset, g + begin);
        else  // without reading the logits: rows that do not count may hold NaN
          fill_run(g + begin, size, offset);
      });
    }
  }
};

}  // namespace

PathTileKernel HACE_PER_ISA(path_tile_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Kernel = TileKernel<decltype(stored)>;
    return PathTileKernel{Kernel::measure, Kernel::write};
  });
}

}  // namespace hace
