// Sweeps of one block over the tree of one row.
//
// Values are stored at inner places only. A column's value is read from the row whenever it is
// needed; after the first time it comes from L1 or L2. Levels are done one after the other, with a
// barrier between them.
//
// Upwards, a group of lanes adds up the children of a node; the group is as wide as the number of
// children that the level's nodes have on average. A warp takes nodes with far more children than
// that, and the whole block takes nodes with a large part of all children. The choice depends on
// the tree alone, and so do the bits of the sums.
//
// Downwards, a place needs only its parent's value, so that every thread takes places of its own.
#pragma once

#include <cfloat>

#include "log_sums.cuh"
#include "reduce.cuh"
#include "tree.cuh"

namespace hace {

// How many loads of one thread are in flight together.
constexpr int kTile = 4;

template <typename Real>
__device__ __forceinline__ Real lowest() {
  return sizeof(Real) == sizeof(double) ? static_cast<Real>(-DBL_MAX) : static_cast<Real>(-FLT_MAX);
}

// ---- groups of 2^n lanes that begin at multiples of 2^n ----

template <typename Real>
__device__ __forceinline__ Real group_sum(Real x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <typename Real>
__device__ __forceinline__ Real group_max(Real x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// ---- up ----

// A `Rise` says what is added up:
//   Part                    the sum over some of a node's children
//   none()                  the empty sum
//   add(part, v, child)     adds up to kTile more children of inner place v; kNothing is skipped
//   merge(part, lanes)      merges the sums of a group of lanes, in each of its lanes
//   end(v, part)            stores the sum over all children of v

template <typename Rise>
__device__ __forceinline__ typename Rise::Part add_children(const Rise& rise, const int32_t* child,
                                                            int v, int begin, int end, int step) {
  typename Rise::Part part = rise.none();
  for (int i = begin; i < end; i += kTile * step) {
    int32_t tile[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j) tile[j] = i + j * step < end ? child[i + j * step] : kNothing;
    rise.add(part, v, tile);
  }
  return part;
}

// The logarithm of the number of lanes per node of a level: one lane per kTile children, or one per
// child if there are more threads than children.
__device__ __forceinline__ int log_lanes_per_node(int num_nodes, int num_children) {
  constexpr int kLogWarp = 5;
  const int a_lane = num_children > static_cast<int>(blockDim.x) ? kTile : 1;
  int log_lanes = 0;
  while (log_lanes < kLogWarp &&
         (static_cast<int64_t>(num_nodes) << log_lanes) * a_lane < num_children)
    ++log_lanes;
  return log_lanes;
}

template <typename Rise>
__device__ __forceinline__ void sweep_up(const Tree& tree, const Levels& levels, const Rise& rise) {
  constexpr int kMostForTheBlock = 64;  // fewer nodes have more than a 64th of all children
  constexpr int kTilesOfAGroup = 4;
  HACE_SHARED(int, wide, kMostForTheBlock);
  HACE_SHARED(int, num_wide, 1);
  HACE_SHARED(typename Rise::Part, part_of_warp, kWarp);
  const int lane = lane_index();
  const int all_children = static_cast<int>(tree.num_classes + tree.num_inner - 1);
  const int most_for_a_warp =
      num_warps() == 1 ? all_children : max(4 * kWarp * kTile, all_children / kMostForTheBlock);
  if (threadIdx.x == 0) num_wide[0] = 0;
  __syncthreads();

  for (int level = 0; level < levels.count; ++level) {
    const int first = levels.bound(level), last = levels.bound(level + 1);
    if (first == last) continue;
    const int log_lanes =
        log_lanes_per_node(last - first, tree.child_ptr[last] - tree.child_ptr[first]);
    const int lanes = 1 << log_lanes, lane_of_group = lane & (lanes - 1);
    const int most_for_a_group = lanes == kWarp ? most_for_a_warp : lanes * kTile * kTilesOfAGroup;
    const int nodes_a_warp = kWarp >> log_lanes;
    bool found_wide = false;
    for (int base = first + warp_index() * nodes_a_warp; base < last;
         base += num_warps() * nodes_a_warp) {
      const int v = base + (lane >> log_lanes);
      const int begin = v < last ? tree.child_ptr[v] : 0;
      const int end = v < last ? tree.child_ptr[v + 1] : 0;
      const bool narrow = end - begin <= most_for_a_group;
      typename Rise::Part part =
          add_children(rise, tree.child, v, begin + lane_of_group, narrow ? end : begin, lanes);
      rise.merge(part, lanes);
      const bool leads = v < last && lane_of_group == 0;
      if (leads && narrow) rise.end(v, part);

      if (leads && end - begin > most_for_a_warp) {
        found_wide = true;
        wide[atomicAdd(num_wide, 1)] = v;
      }
      unsigned left = __ballot_sync(kAllLanes, leads && !narrow && end - begin <= most_for_a_warp);
      for (; left; left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1;
        const int u = __shfl_sync(kAllLanes, v, from);
        part = add_children(rise, tree.child, u, __shfl_sync(kAllLanes, begin, from) + lane,
                            __shfl_sync(kAllLanes, end, from), kWarp);
        rise.merge(part, kWarp);
        if (lane == 0) rise.end(u, part);
      }
    }

    if (!__syncthreads_or(found_wide)) continue;
    const int count = num_wide[0];
    for (int i = 0; i < count; ++i) {
      const int v = wide[i];
      typename Rise::Part part =
          add_children(rise, tree.child, v, tree.child_ptr[v] + static_cast<int>(threadIdx.x),
                       tree.child_ptr[v + 1], static_cast<int>(blockDim.x));
      rise.merge(part, kWarp);
      if (lane == 0) part_of_warp[warp_index()] = part;
      __syncthreads();
      if (warp_index() == 0) {
        part = lane < num_warps() ? part_of_warp[lane] : rise.none();
        rise.merge(part, kWarp);
        if (lane == 0) rise.end(v, part);
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) num_wide[0] = 0;
    __syncthreads();
  }
}

// Log-sum-exp at every inner place v, as exp(max_v) * sum_v with max_v the largest logit below:
//
//   max_v = max over c of max_c    sum_v = sum_c share_c    share_c = exp(max_c - max_v) sum_c
//
// over the children c, where a column has its logit as its max and the sum 1. Every place has a
// maximum of its own, so that sums of any size keep all their digits. The maximum is a finite
// number even where all logits are -inf, so that their exponentials are 0; a NaN shows in the sum.
template <typename Stored>
struct LogRise {
  using Real = work_t<Stored>;
  using Part = LogSum<Real>;

  const Stored* logits;
  int num_classes;
  Part* log_sum;  // by inner place

  __device__ __forceinline__ Part none() const { return {lowest<Real>(), Real(0)}; }

  __device__ __forceinline__ void add(Part& part, int, const int32_t (&child)[kTile]) const {
    Part each[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      const int32_t c = child[j];
      if (c >= num_classes)
        each[j] = log_sum[c - num_classes];
      else
        each[j] = c < 0 ? none() : Part{to_work(logits[c]), Real(1)};
    }
    Real above = part.max, total = 0;
#pragma unroll
    for (int j = 0; j < kTile; ++j) above = max(above, each[j].max);
#pragma unroll
    for (int j = 0; j < kTile; ++j) total += each[j].sum * exp_of(each[j].max - above);
    part.sum = part.sum * exp_of(part.max - above) + total;
    part.max = above;
  }

  __device__ __forceinline__ void merge(Part& part, int lanes) const {
    const Real above = group_max(part.max, lanes);
    part.sum = group_sum(part.sum * exp_of(part.max - above), lanes);
    part.max = above;
  }

  __device__ __forceinline__ void end(int v, Part part) const { log_sum[v] = part; }
};

// ---- down ----

// Calls fall(v, parent of v) for every inner place but the root, parents first.
template <typename Fall>
__device__ __forceinline__ void sweep_down(const Tree& tree, const Levels& levels, Fall fall) {
  const int32_t* const parent = tree.parent + tree.num_classes;
  const int num_classes = static_cast<int>(tree.num_classes);
  for (int level = levels.count - 2; level >= 0; --level) {
    __syncthreads();
    const int last = levels.bound(level + 1);
    for (int v = levels.bound(level) + static_cast<int>(threadIdx.x); v < last;
         v += static_cast<int>(blockDim.x))
      fall(v, parent[v] - num_classes);
  }
  __syncthreads();
}

// Calls use(i, load(i)) for i in 0 .. size - 1, kTile loads of a thread at a time.
template <typename Load, typename Use>
__device__ __forceinline__ void for_each(int size, Load load, Use use) {
  const int step = static_cast<int>(blockDim.x);
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kTile * step) {
    decltype(load(0)) loaded[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j)
      if (i + j * step < size) loaded[j] = load(i + j * step);
#pragma unroll
    for (int j = 0; j < kTile; ++j)
      if (i + j * step < size) use(i + j * step, loaded[j]);
  }
}

// The gradient of the loss of the masses q_v, with W = sum_v q_v:
//
//   d/dz_j sum_v q_v (-log P_v) = W p_j - sum_{v above j} q_v exp(z_j - lse_v)
//
// At a place u, pull_u = W P_u - sum_{v above u} q_v exp(lse_u - lse_v). It follows from the
// parent's alone: pull_u = (share_u / sum_parent) pull_parent - q_u, with pull_root = W. The pull
// of a column is the gradient of its logit.
//
// Where all columns below v are -inf there are no shares: pull_v is divided among them evenly.
template <typename Real>
struct Pull {
  const Tree& tree;
  const LogSum<Real>* log_sum;  // by inner place
  Real* mass;                   // by inner place: q; then its pull, of which a child gets its share

  __device__ __forceinline__ int root() const { return static_cast<int>(tree.num_inner) - 1; }

  // The pull on place c, a child of inner place v.
  __device__ __forceinline__ Real on(int c, LogSum<Real> below, int v) const {
    if (below.max <= lowest<Real>() && v != root() && log_sum[v].sum == 0)
      return mass[v] * (Real(tree.num_columns[c]) / Real(tree.num_columns[tree.num_classes + v]));
    return below.sum * exp_of(below.max - log_sum[v].max) * mass[v];
  }

  __device__ __forceinline__ void go_down(const Levels& levels, Real total) const {
    if (threadIdx.x == 0) mass[root()] = total / log_sum[root()].sum;
    const int num_classes = static_cast<int>(tree.num_classes);
    sweep_down(tree, levels, [&](int v, int above) {
      const Real pull = on(num_classes + v, log_sum[v], above) - mass[v];
      mass[v] = log_sum[v].sum == 0 ? pull : pull / log_sum[v].sum;
    });
  }
};

}  // namespace hace
