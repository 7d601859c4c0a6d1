// The kernels of `path_log_loss`.
//
// csrc/cpu/path_log_loss_kernel.cpp derives the gradient that is computed here. With lse_r over
// interval r, lse_K over the whole row, and j in ring r:
//
//   dL/dz_j = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
//   A_r     = sum_{i < r} w_i
//   B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)
//
// A row is cut twice: into strips (strips.cuh) and, by its target's intervals, into segments
// (path.cuh). What strip s has of segment g is a *fragment*. Its number is s + g: no two have the
// same, and a segment's are consecutive. Each fragment takes its exponentials relative to its own
// largest logit, so that nothing underflows, whatever the gaps between rings, and its gradient is
// one factor times these (and, in intervals without mass, plus a constant). So a strip within one
// segment costs the same whatever the path, and every interval's end that lies in a strip costs
// another look at the registers, not at memory.
//
// Rows that fit a block's registers (row_kernel) are read from memory once and their gradient is
// written once. Longer rows are split: `measure_kernel` reads strips and leaves a pair for each
// fragment, `resolve_kernel` makes loss and factors of them, one block a row, and `write_kernel`
// reads the strips again, from the L2 cache if the launcher's chunk of rows fits there, and writes
// the gradient. Columns in another order are gathered from a copy of the row in shared memory.
//
// Bytes a row: 2 C elements, and O(K + C / 512) in shared memory or the caches.
//
// There are no atomics: the same input gives the same bits.
#pragma once

#include <algorithm>

#include "log_sums.cuh"
#include "path.cuh"
#include "rows.cuh"
#include "strips.cuh"

namespace hace {

template <typename Stored>
struct PathLogLossProblem {
  using Real = work_t<Stored>;

  const Stored* logits;  // (rows, columns), unit stride along a row
  int64_t row_stride;
  int64_t num_rows;
  int columns;
  Stored* grad;    // (rows, columns) contiguous; null: the loss alone
  Real* row_loss;  // (rows); null: the gradient alone

  // The path table: entries ptr[t] .. ptr[t + 1] are target t's intervals and their weights.
  const int64_t* ptr;
  const int32_t* start;
  const int32_t* stop;
  const double* weight;
  const int32_t* order;  // position -> column, or null
  int64_t num_targets;
  int max_entries;  // of the longest path

  const int64_t* target;        // (rows)
  const double* target_weight;  // (targets), or null
  int64_t ignore_index;
  const double* divisor;  // of the rows' gradients, or null
  const Real* grad_loss;  // the incoming gradient, or null for 1
  int64_t grad_loss_step;
  double entropy;  // weight of sum_j p_j log p_j beside the log-losses
  double eps;
};

// ---- memory between the passes ----

// What is known of a row's fragments and rings: an array of each field.
template <typename Real>
struct RowSums {
  enum RowField { kRowTop, kSlope, kMiddle, kFactor, kRowFields };
  enum RingField {
    kTop,
    kTotal,
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

// ---- a row's target ----

template <typename Real>
struct OpenRow {
  Path path;
  double weight;  // of its loss: 0 if it does not count, NaN if its target is none
  Real factor;    // of its gradient
};

template <typename Stored>
__device__ OpenRow<work_t<Stored>> open_row(const PathLogLossProblem<Stored>& problem,
                                            int64_t row) {
  const int64_t target = problem.target[row];
  OpenRow<work_t<Stored>> open = {};
  open.weight = weight_of(target, problem.target_weight, problem.num_targets, problem.ignore_index);
  double factor =
      gradient_factor(open.weight, problem.divisor, problem.grad_loss, problem.grad_loss_step, row);
  Path& path = open.path;
  path.columns = problem.columns;
  bool valid = target >= 0 && target < problem.num_targets;
  if (valid) {
    const int64_t first = problem.ptr[target];
    path.start = problem.start + first;
    path.stop = problem.stop + first;
    path.weight = problem.weight + first;
    path.num_intervals = static_cast<int>(problem.ptr[target + 1] - first);
    valid = path.num_intervals == 0 || path.start[0] < path.stop[0];
  }
  if (!valid) {
    path.num_intervals = 0;
    if (open.weight != 0) open.weight = not_a_number<double>();
    if (factor != 0) factor = not_a_number<double>();
  }
  open.factor = static_cast<work_t<Stored>>(factor);
  return open;
}

// ---- fragments ----

// Calls run(segment, begin, end) for what a strip has of each segment.
template <typename Stored, typename Run>
__device__ __forceinline__ void for_fragments(const StripRow<Stored>& row, int strip,
                                              const Path& path, Run run) {
  const int begin = row.begin(strip), end = row.end(strip);
  const int last = path.segment_of(end - 1);
  for (int segment = path.segment_of(begin); segment <= last; ++segment) {
    const int from = max(begin, path.segment_begin(segment));
    const int to = min(end, path.segment_end(segment));
    if (from < to) run(segment, from, to);
  }
}

// Puts exponentials relative to the fragment's top in place of its logits, or, with entropy, the
// logits less the top. Outside of the row they are -inf, and make no difference to a whole strip.
template <bool kEntropy, bool kWhole, typename Stored>
__device__ __forceinline__ Mass<work_t<Stored>> measure_fragment(const StripRow<Stored>& row,
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
  Real total = 0, moment = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (!in(i)) continue;
    const Real gap = x[i] - shift, e = exp_of(gap);
    total += e;
    if constexpr (kEntropy) moment += e == 0 ? Real(0) : e * gap;
    x[i] = kEntropy ? gap : e;
  }
  if constexpr (kEntropy) moment = warp_sum(moment);
  return {{top, warp_sum(total)}, moment};
}

template <bool kEntropy, typename Stored>
__device__ __forceinline__ void measure_strip(const StripRow<Stored>& row, int strip,
                                              const Path& path, const RowSums<work_t<Stored>>& sums,
                                              work_t<Stored> (&x)[kPerLane]) {
  using Sums = RowSums<work_t<Stored>>;
  const int strip_size = row.end(strip) - row.begin(strip);
  for_fragments(row, strip, path, [&](int segment, int begin, int end) {
    const auto mass = end - begin == strip_size
                          ? measure_fragment<kEntropy, true>(row, strip, begin, end, x)
                          : measure_fragment<kEntropy, false>(row, strip, begin, end, x);
    if (lane_index() != 0) return;
    const int fragment = strip + segment;
    sums.fragment(Sums::kFragmentTop, fragment) = mass.sum.top;
    sums.fragment(Sums::kFragmentTotal, fragment) = mass.sum.total;
    if constexpr (kEntropy) sums.fragment(Sums::kFragmentMoment, fragment) = mass.moment;
  });
}

// ---- rings ----

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
      const int fragment = strip + segment;
      Mass<Real> more = {{sums.fragment(Sums::kFragmentTop, fragment),
                          sums.fragment(Sums::kFragmentTotal, fragment)},
                         Real(0)};
      if constexpr (kEntropy) more.moment = sums.fragment(Sums::kFragmentMoment, fragment);
      mass = merge<kEntropy>(mass, more);
    }
  }
  return warp_merge<kEntropy>(mass);
}

// Every lane a ring, and in steps of 32 where there are more: from the inside out the intervals'
// masses and A.
template <typename Real>
__device__ __forceinline__ LogSum<Real> sum_outwards(const Path& path, const RowSums<Real>& sums) {
  using Sums = RowSums<Real>;
  LogSum<Real> before = empty_sum<Real>();
  Real weights = 0;
  for (int first = 0; first <= path.num_intervals; first += kWarp) {
    const int ring = first + lane_index();
    const bool there = ring <= path.num_intervals;
    LogSum<Real> inside = empty_sum<Real>();
    if (there) inside = {sums.ring(Sums::kTop, ring), sums.ring(Sums::kTotal, ring)};
    inside = merge(before, warp_prefix_merge(inside));
    const Real w = ring < path.num_intervals ? static_cast<Real>(path.weight[ring]) : Real(0);
    const Real up_to = warp_prefix_sum(w);
    if (there) {
      sums.ring(Sums::kInsideTop, ring) = inside.top;
      sums.ring(Sums::kInsideTotal, ring) = inside.total;
      sums.ring(Sums::kOfRow, ring) = weights + (up_to - w);
    }
    before = broadcast_from(inside, kWarp - 1);
    weights += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  return before;
}

// b_l of b = lost + a * (b before), lane by lane, from `before` in front of lane 0.
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

// From the outside in: the loss, B, and what intervals without mass add. Lane 0 has the outermost
// ring of a step.
//
// An interval without mass has infinite loss; the second sum of its gradient is its weight spread
// evenly over its columns.
template <typename Real>
__device__ __forceinline__ Real sum_inwards(const Path& path, const RowSums<Real>& sums,
                                            LogSum<Real> all, Real factor) {
  using Sums = RowSums<Real>;
  const Real scale = all.total > 0 ? factor / all.total : not_a_number<Real>();
  LogSum<Real> outside = empty_sum<Real>(), next = all;
  Real next_b = 0, next_offset = 0, loss = 0;
  for (int first = path.num_intervals; first >= 0; first -= kWarp) {
    const int ring = first - lane_index();
    const bool there = ring >= 0, is_interval = there && ring < path.num_intervals;
    LogSum<Real> own = empty_sum<Real>(), inside = {Real(0), Real(1)};
    if (there) {
      own = {sums.ring(Sums::kTop, ring), sums.ring(Sums::kTotal, ring)};
      inside = {sums.ring(Sums::kInsideTop, ring), sums.ring(Sums::kInsideTotal, ring)};
    }
    const LogSum<Real> from_here = merge(outside, warp_prefix_merge(own));
    LogSum<Real> beyond = shuffle_up(from_here, 1), above = shuffle_up(inside, 1);
    if (lane_index() == 0) {
      beyond = outside;
      above = next;
    }
    const Real w = is_interval ? static_cast<Real>(path.weight[ring]) : Real(0);
    const bool alive = is_interval && inside.total != 0, dead = is_interval && inside.total == 0;
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
      sums.ring(Sums::kOfInterval, ring) = inside.total == 0 ? Real(0) : b * factor / inside.total;
      sums.ring(Sums::kOffset, ring) = offset * factor;
    }
    outside = broadcast_from(from_here, kWarp - 1);
    next = broadcast_from(inside, kWarp - 1);
    next_b = __shfl_sync(kAllLanes, b, kWarp - 1);
    next_offset = __shfl_sync(kAllLanes, offset, kWarp - 1);
  }
  return warp_sum(loss);
}

// The same with eps. With c_i = w_i / (P_i + eps),
//
//   dL/dz_j = p_j (sum_{i < r} c_i P_i - sum_{i >= r} c_i (1 - P_i))
template <typename Real>
__device__ __forceinline__ Real sum_with_eps(const Path& path, const RowSums<Real>& sums,
                                             LogSum<Real> all, Real factor, Real eps) {
  using Sums = RowSums<Real>;
  const Real scale = all.total > 0 ? factor / all.total : not_a_number<Real>();
  LogSum<Real> outside = empty_sum<Real>();
  Real pushed = 0, loss = 0;
  for (int first = path.num_intervals; first >= 0; first -= kWarp) {
    const int ring = first - lane_index();
    const bool there = ring >= 0, is_interval = there && ring < path.num_intervals;
    LogSum<Real> own = empty_sum<Real>(), inside = own;
    if (there) {
      own = {sums.ring(Sums::kTop, ring), sums.ring(Sums::kTotal, ring)};
      inside = {sums.ring(Sums::kInsideTop, ring), sums.ring(Sums::kInsideTotal, ring)};
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

// From fragments to the row's loss and every ring's coefficients. The whole block.
template <bool kEntropy, typename Stored>
__device__ __forceinline__ void resolve(const PathLogLossProblem<Stored>& problem, int64_t index,
                                        const StripRow<Stored>& row,
                                        const OpenRow<work_t<Stored>>& open,
                                        const RowSums<work_t<Stored>>& sums) {
  using Real = work_t<Stored>;
  using Sums = RowSums<Real>;
  const Path& path = open.path;
  HACE_SHARED(Real, moment_of_warp, kWarp);
  __syncthreads();
  Mass<Real> mine = {empty_sum<Real>(), Real(0)};
  for (int ring = warp_index(); ring <= path.num_intervals; ring += num_warps()) {
    const Mass<Real> mass = ring_mass<kEntropy>(row, ring, path, sums);
    if constexpr (kEntropy) mine = merge<true>(mine, mass);
    if (lane_index() == 0) {
      sums.ring(Sums::kTop, ring) = mass.sum.top;
      sums.ring(Sums::kTotal, ring) = mass.sum.total;
    }
  }
  HACE_SHARED(Real, top_of_warp, kWarp);
  HACE_SHARED(Real, total_of_warp, kWarp);
  if (kEntropy && lane_index() == 0) {
    top_of_warp[warp_index()] = mine.sum.top;
    total_of_warp[warp_index()] = mine.sum.total;
    moment_of_warp[warp_index()] = mine.moment;
  }
  __syncthreads();

  if (warp_index() == 0) {
    const LogSum<Real> all = sum_outwards(path, sums);
    __syncwarp();
    const Real eps = static_cast<Real>(problem.eps);
    Real loss = eps > 0 ? sum_with_eps(path, sums, all, open.factor, eps)
                        : sum_inwards(path, sums, all, open.factor);
    Real slope = 0, middle = 0;
    if constexpr (kEntropy) {
      // sum_j p_j log p_j, and log p_j less it: z_j - top + middle.
      Mass<Real> whole = {empty_sum<Real>(), Real(0)};
      if (lane_index() < num_warps())
        whole = {{top_of_warp[lane_index()], total_of_warp[lane_index()]},
                 moment_of_warp[lane_index()]};
      whole = warp_merge<true>(whole);
      const Real negative_entropy = whole.moment / all.total - log_of(all.total);
      loss += static_cast<Real>(problem.entropy) * negative_entropy;
      slope = static_cast<Real>(problem.entropy) * (open.factor / all.total);
      middle = -log_of(all.total) - negative_entropy;
    }
    if (!(all.total > 0)) loss = not_a_number<Real>();
    if (lane_index() == 0) {
      sums.of_row[Sums::kRowTop] = finite(all.top);
      sums.of_row[Sums::kSlope] = slope;
      sums.of_row[Sums::kMiddle] = middle;
      sums.of_row[Sums::kFactor] = open.factor;
      if (problem.row_loss)
        problem.row_loss[index] = weighted_loss<Real>(open.weight, static_cast<double>(loss));
    }
  }
  __syncthreads();
}

// ---- gradient ----

// The gradient of a fragment: of_fragment e_j + offset, and what entropy adds,
// p_j (log p_j - sum_k p_k log p_k) = slope e_j (z_j - top + below).
template <typename Real>
struct FragmentGradient {
  Real of_fragment, offset, slope, below;
};

template <bool kEntropy, typename Real>
__device__ __forceinline__ FragmentGradient<Real> gradient_of(const RowSums<Real>& sums,
                                                              int fragment, int ring) {
  using Sums = RowSums<Real>;
  const Real row_top = sums.of_row[Sums::kRowTop];
  const Real top = sums.fragment(Sums::kFragmentTop, fragment);
  const Real to_row = exp_of(top - row_top);
  const Real to_interval = exp_of(top - finite(sums.ring(Sums::kInsideTop, ring)));
  FragmentGradient<Real> gradient = {};
  gradient.of_fragment =
      sums.ring(Sums::kOfRow, ring) * to_row - sums.ring(Sums::kOfInterval, ring) * to_interval;
  gradient.offset = sums.ring(Sums::kOffset, ring);
  if constexpr (kEntropy) {
    gradient.slope = sums.of_row[Sums::kSlope] * to_row;
    gradient.below = to_row == 0 ? Real(0) : finite(top) - row_top + sums.of_row[Sums::kMiddle];
  }
  return gradient;
}

// Puts it in place of what `measure_fragment` left.
template <bool kEntropy, bool kWhole, typename Stored>
__device__ __forceinline__ void differentiate_fragment(
    const StripRow<Stored>& row, int strip, int begin, int end,
    const FragmentGradient<work_t<Stored>>& gradient, work_t<Stored> (&x)[kPerLane]) {
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (!kWhole && !row.is_in(strip, i, begin, end)) continue;
    const auto e = kEntropy ? exp_of(x[i]) : x[i];
    auto g = gradient.of_fragment * e + gradient.offset;
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
  for_fragments(row, strip, path, [&](int segment, int begin, int end) {
    const auto gradient = gradient_of<kEntropy>(sums, strip + segment, path.ring_of(segment));
    if (end - begin == strip_size)
      differentiate_fragment<kEntropy, true>(row, strip, begin, end, gradient, x);
    else
      differentiate_fragment<kEntropy, false>(row, strip, begin, end, gradient, x);
  });
}

// Rows that do not count have a gradient of 0, those without a target one of NaN.
template <typename Stored>
__device__ __forceinline__ void fill_row(const PathLogLossProblem<Stored>& problem, int64_t row,
                                         work_t<Stored> value, int first, int step) {
  if (!problem.grad) return;
  Stored* const grad = problem.grad + row * problem.columns;
  for (int column = first; column < problem.columns; column += step)
    grad[column] = to_stored<Stored>(value);
}

// Whether nothing of the row needs to be read; then its loss is 0, or NaN without a target.
template <typename Real>
__device__ __forceinline__ bool is_idle(const OpenRow<Real>& open) {
  return open.weight == 0 || isnan(open.weight);
}

// ---- kernels ----

// Of a block with that many strips a warp: 128 registers a thread at least.
constexpr int row_threads(int strips_per_warp) { return strips_per_warp == 3 ? 512 : 256; }
constexpr int kSplitThreads = 256;
constexpr int kSplitStrips = kSplitThreads / kWarp;  // of a row that a block works on

// A row a block, of at most kStrips strips a warp. Its sums are in shared memory unless `memory` is
// given; with `stages` its columns are put in order there, too.
template <typename Stored, int kStrips, bool kEntropy>
__global__ void __launch_bounds__(row_threads(kStrips))
    row_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory,
               bool stages) {
  using Real = work_t<Stored>;
  HACE_DYNAMIC_SHARED(Real, shared);
  const int64_t index = first_row + blockIdx.x;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory ? memory + blockIdx.x * values : shared, strips,
                           problem.max_entries);
  // Behind the sums, from a multiple of 16 bytes.
  const int64_t behind = memory ? 0 : (values * sizeof(Real) + kVectorBytes - 1) / kVectorBytes;
  Stored* const stage =
      reinterpret_cast<Stored*>(reinterpret_cast<char*>(shared) + behind * kVectorBytes);

  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) {
    fill_row(problem, index, open.factor, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0 && problem.row_loss)
      problem.row_loss[index] = static_cast<Real>(open.weight);
    return;
  }
  const Stored* const logits = problem.logits + index * problem.row_stride;
  if (stages) {
    for (int column = threadIdx.x; column < problem.columns; column += blockDim.x)
      stage[column] = logits[column];
    __syncthreads();
  }
  const StripRow<Stored> row(logits, problem.order, stages ? stage : logits, problem.columns);

  Real x[kStrips][kPerLane];
#pragma unroll
  for (int i = 0; i < kStrips; ++i) row.load(i * num_warps() + warp_index(), x[i]);
#pragma unroll
  for (int i = 0; i < kStrips; ++i) {
    const int strip = i * num_warps() + warp_index();
    if (strip < row.num_strips()) measure_strip<kEntropy>(row, strip, open.path, sums, x[i]);
  }
  resolve<kEntropy>(problem, index, row, open, sums);

  if (!problem.grad) return;
  Stored* const grad = problem.grad + index * problem.columns;
#pragma unroll
  for (int i = 0; i < kStrips; ++i) {
    const int strip = i * num_warps() + warp_index();
    if (strip >= row.num_strips()) continue;
    differentiate_strip<kEntropy>(row, strip, open.path, sums, x[i]);
    row.store(strip, x[i], grad, stages ? stage : grad);
  }
  if (!stages) return;
  __syncthreads();
  for (int column = threadIdx.x; column < problem.columns; column += blockDim.x)
    grad[column] = stage[column];
}

template <typename Stored>
__device__ __forceinline__ StripRow<Stored> split_row(const PathLogLossProblem<Stored>& problem,
                                                      int64_t index) {
  const Stored* const logits = problem.logits + index * problem.row_stride;
  return StripRow<Stored>(logits, problem.order, logits, problem.columns);
}

// Of a split row, this block's row in the chunk, and this warp's strip.
struct SplitPlace {
  int64_t slot;
  int strip;

  __device__ explicit SplitPlace(int64_t strips) {
    const int64_t blocks = (strips + kSplitStrips - 1) / kSplitStrips;
    slot = blockIdx.x / blocks;
    strip = static_cast<int>(blockIdx.x % blocks) * kSplitStrips + warp_index();
  }
};

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    measure_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const SplitPlace place(strips);
  const int64_t index = first_row + place.slot;
  const StripRow<Stored> row = split_row(problem, index);
  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open) || place.strip >= row.num_strips()) return;
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + place.slot * values, strips, problem.max_entries);
  Real x[kPerLane];
  row.load(place.strip, x);
  measure_strip<kEntropy>(row, place.strip, open.path, sums, x);
}

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    resolve_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t index = first_row + blockIdx.x;
  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) {
    if (threadIdx.x == 0 && problem.row_loss)
      problem.row_loss[index] = static_cast<Real>(open.weight);
    return;
  }
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + blockIdx.x * values, strips, problem.max_entries);
  const StripRow<Stored> row = split_row(problem, index);
  resolve<kEntropy>(problem, index, row, open, sums);
}

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    write_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const SplitPlace place(strips);
  const int64_t index = first_row + place.slot;
  const StripRow<Stored> row = split_row(problem, index);
  if (place.strip >= row.num_strips()) return;
  const OpenRow<Real> open = open_row(problem, index);
  Stored* const grad = problem.grad + index * problem.columns;
  Real x[kPerLane];
  if (is_idle(open)) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] = open.factor;
    row.store(place.strip, x, grad, grad);
    return;
  }
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + place.slot * values, strips, problem.max_entries);
  row.load(place.strip, x);
  // The tops are known; the exponentials are made anew.
  for_fragments(row, place.strip, open.path, [&](int segment, int begin, int end) {
    const Real top = finite(sums.fragment(RowSums<Real>::kFragmentTop, place.strip + segment));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (row.is_in(place.strip, i, begin, end)) x[i] = kEntropy ? x[i] - top : exp_of(x[i] - top);
    }
  });
  differentiate_strip<kEntropy>(row, place.strip, open.path, sums, x);
  row.store(place.strip, x, grad, grad);
}

// ---- launches ----

// How rows are laid over blocks.
struct PathLogLossPlan {
  bool splits;            // a row over several blocks
  int strips_per_warp;    // unless it splits
  int threads;            // of a block
  bool stages;            // whether columns are put in order in shared memory
  int64_t shared_bytes;   // of a block
  int64_t rows_at_once;   // of a launch
  int64_t memory_values;  // of the type worked in, beside
};

// A row's sums are kept in shared memory up to this, and launches share this much beside it.
constexpr int64_t kSumsInShared = int64_t{16} << 10;
constexpr int64_t kMemoryAtOnce = int64_t{64} << 20;

template <typename Stored>
PathLogLossPlan plan_path_log_loss(const PathLogLossProblem<Stored>& problem,
                                   const Device& device) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const int64_t sums_bytes = (values * static_cast<int64_t>(sizeof(Real)) + kVectorBytes - 1) /
                             kVectorBytes * kVectorBytes;
  const int64_t row_bytes = problem.columns * static_cast<int64_t>(sizeof(Stored));
  const int max_strips_per_warp = problem.entropy != 0 || sizeof(Real) == 8 ? 2 : 3;

  PathLogLossPlan plan = {};
  plan.splits = strips > max_strips_per_warp * (row_threads(max_strips_per_warp) / kWarp);
  plan.rows_at_once = std::max<int64_t>(1, problem.num_rows);
  bool sums_in_shared = false;
  if (plan.splits) {
    plan.threads = kSplitThreads;
    plan.rows_at_once = std::max<int64_t>(1, device.l2_bytes / 2 / std::max<int64_t>(1, row_bytes));
  } else {
    plan.strips_per_warp = strips <= 8 ? 1 : strips <= 16 ? 2 : max_strips_per_warp;
    const int64_t warps = (strips + plan.strips_per_warp - 1) / plan.strips_per_warp;
    plan.threads = static_cast<int>(std::max<int64_t>(1, warps)) * kWarp;
    sums_in_shared = sums_bytes <= kSumsInShared;
    if (sums_in_shared) plan.shared_bytes = sums_bytes;
    plan.stages = problem.order && plan.shared_bytes + row_bytes <= device.shared_bytes;
    if (plan.stages) plan.shared_bytes += row_bytes;
  }
  if (!sums_in_shared) {
    plan.rows_at_once =
        std::min(plan.rows_at_once, std::max<int64_t>(1, kMemoryAtOnce / sums_bytes));
    plan.rows_at_once = std::min(plan.rows_at_once, std::max<int64_t>(1, problem.num_rows));
    plan.memory_values = plan.rows_at_once * values;
  }
  return plan;
}

template <typename Kernel>
void allow_shared(Kernel* kernel, int64_t bytes) {
  if (bytes > (int64_t{48} << 10))
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
}

template <bool kEntropy, typename Stored>
void launch_whole_rows(const PathLogLossProblem<Stored>& problem, const PathLogLossPlan& plan,
                       int64_t first, int64_t count, work_t<Stored>* memory, cudaStream_t stream) {
  const auto launch = [&](auto* kernel) {
    allow_shared(kernel, plan.shared_bytes);
    HACE_LAUNCH(kernel, dim3(static_cast<unsigned>(count)), dim3(plan.threads),
                static_cast<size_t>(plan.shared_bytes), stream, problem, first, memory,
                plan.stages);
  };
  if (plan.strips_per_warp == 1) return launch(&row_kernel<Stored, 1, kEntropy>);
  if (plan.strips_per_warp == 2) return launch(&row_kernel<Stored, 2, kEntropy>);
  if constexpr (!kEntropy && sizeof(work_t<Stored>) == 4) launch(&row_kernel<Stored, 3, kEntropy>);
}

template <bool kEntropy, typename Stored>
void launch_split_rows(const PathLogLossProblem<Stored>& problem, int64_t first, int64_t count,
                       work_t<Stored>* memory, cudaStream_t stream) {
  const int64_t blocks = (num_strips<Stored>(problem.columns) + kSplitStrips - 1) / kSplitStrips;
  const dim3 grid(static_cast<unsigned>(blocks * count));
  HACE_LAUNCH((measure_kernel<Stored, kEntropy>), grid, dim3(kSplitThreads), 0, stream, problem,
              first, memory);
  HACE_LAUNCH((resolve_kernel<Stored, kEntropy>), dim3(static_cast<unsigned>(count)),
              dim3(kSplitThreads), 0, stream, problem, first, memory);
  if (problem.grad)
    HACE_LAUNCH((write_kernel<Stored, kEntropy>), grid, dim3(kSplitThreads), 0, stream, problem,
                first, memory);
}

// The rows' weighted losses and their gradient. `memory` has plan.memory_values entries.
template <typename Stored>
void run_path_log_loss(const PathLogLossProblem<Stored>& problem, const PathLogLossPlan& plan,
                       work_t<Stored>* memory, cudaStream_t stream) {
  const bool entropy = problem.entropy != 0;
  for (int64_t first = 0; first < problem.num_rows; first += plan.rows_at_once) {
    const int64_t count = std::min(plan.rows_at_once, problem.num_rows - first);
    if (plan.splits && entropy)
      launch_split_rows<true>(problem, first, count, memory, stream);
    else if (plan.splits)
      launch_split_rows<false>(problem, first, count, memory, stream);
    else if (entropy)
      launch_whole_rows<true>(problem, plan, first, count, memory, stream);
    else
      launch_whole_rows<false>(problem, plan, first, count, memory, stream);
  }
}

}  // namespace hace
