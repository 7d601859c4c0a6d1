// The kernels of `tree_sum_up` and `tree_sum_down`.
//
// Traffic with device memory per row of N nodes and C columns: N + C values in and out. The inner
// places' sums are in shared memory if they fit there. A mixed node of a DAG has the sum of its
// parts; a tree has none.
#pragma once

#include "mixed_nodes.cuh"
#include "tree_sweeps.cuh"

namespace hace {

template <typename Stored>
struct TreeSumProblem {
  Tree tree;
  MixedNodes mixed;
  Levels levels;
  RowMemory memory;
  int64_t num_rows;
  const Stored* values;  // (rows, C) to go up, (rows, N) to go down; unit stride along a row
  int64_t row_stride;
  Stored* sums;            // (rows, N) or (rows, C), contiguous
  const int32_t* node_at;  // by place, to go down
};

template <typename Stored>
inline int64_t tree_sum_row_bytes(const Tree& tree, const MixedNodes& mixed) {
  return (tree.num_inner + mixed.count) * static_cast<int64_t>(sizeof(work_t<Stored>));
}

template <typename Stored>
struct SumRise {
  using Part = work_t<Stored>;

  const Stored* values;
  int num_classes;
  Part* sum;  // by inner place

  __device__ __forceinline__ Part none() const { return 0; }
  __device__ __forceinline__ void add(Part& part, int, const int32_t (&child)[kTile]) const {
    Part each[kTile];
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      const int32_t c = child[j];
      each[j] = c < 0 ? Part(0) : c < num_classes ? to_work(values[c]) : sum[c - num_classes];
    }
    part += (each[0] + each[1]) + (each[2] + each[3]);
    static_assert(kTile == 4, "all of them");
  }
  __device__ __forceinline__ void merge(Part& part, int lanes) const {
    part = group_sum(part, lanes);
  }
  __device__ __forceinline__ void end(int v, Part part) const { sum[v] = part; }
};

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    tree_sum_up_kernel(TreeSumProblem<Stored> problem) {
  using Real = work_t<Stored>;
  const Tree& tree = problem.tree;
  const int num_classes = static_cast<int>(tree.num_classes);
  const MixedNodes& mixed = problem.mixed;
  const int num_mixed = static_cast<int>(mixed.count);
  Real* const sum = reinterpret_cast<Real*>(problem.memory.of_block());
  for (int64_t row = blockIdx.x; row < problem.num_rows; row += gridDim.x) {
    const Stored* const values = problem.values + row * problem.row_stride;
    Stored* const sums = problem.sums + row * tree.num_nodes;
    sweep_up(tree, problem.levels, SumRise<Stored>{values, num_classes, sum});
    if (num_mixed > 0) {
      for_groups(0, num_mixed, [&](int x, int lane) {
        const int begin = x < num_mixed ? mixed.part_ptr[x] : 0;
        const int end = x < num_mixed ? mixed.part_ptr[x + 1] : 0;
        double all = 0;
        for (int i = begin + lane; i < end; i += kGroup) {
          const int part = mixed.part[i];
          all += part < num_classes ? to_work(values[part]) : sum[part - num_classes];
        }
        all = group_sum(all, kGroup);
        if (x < num_mixed && lane == 0) sum[tree.num_inner + x] = static_cast<Real>(all);
      });
      __syncthreads();
    }
    for_each(
        static_cast<int>(tree.num_nodes),
        [&](int node) {
          const int32_t place = tree.place[node];
          if (place >= num_classes) return to_stored<Stored>(sum[place - num_classes]);
          return place < 0 ? to_stored<Stored>(Real(0)) : values[place];
        },
        [&](int node, Stored value) { sums[node] = value; });
    __syncthreads();
  }
}

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    tree_sum_down_kernel(TreeSumProblem<Stored> problem) {
  using Real = work_t<Stored>;
  const Tree& tree = problem.tree;
  const int num_classes = static_cast<int>(tree.num_classes);
  const MixedNodes& mixed = problem.mixed;
  const int num_places = num_classes + static_cast<int>(tree.num_inner);
  Real* const sum = reinterpret_cast<Real*>(problem.memory.of_block());
  for (int64_t row = blockIdx.x; row < problem.num_rows; row += gridDim.x) {
    const Stored* const values = problem.values + row * problem.row_stride;
    Stored* const sums = problem.sums + row * tree.num_classes;
    const auto of_place = [&](int place) {
      const int32_t node = problem.node_at[place];
      return node < 0 ? Real(0) : to_work(values[node]);
    };
    // The place's own value, plus those of the mixed nodes that it is part of.
    const auto own = [&](int place) {
      if (mixed.count == 0) return of_place(place);
      double all = of_place(place);
      for (int i = mixed.holder_ptr[place]; i < mixed.holder_ptr[place + 1]; ++i)
        all += of_place(num_places + mixed.holder[i]);
      return static_cast<Real>(all);
    };
    for_each(
        static_cast<int>(tree.num_inner), [&](int v) { return own(num_classes + v); },
        [&](int v, Real value) { sum[v] = value; });
    sweep_down(tree, problem.levels, [&](int v, int above) { sum[v] += sum[above]; });
    for_each(
        num_classes, [&](int c) { return own(c) + sum[tree.parent[c] - num_classes]; },
        [&](int c, Real value) { sums[c] = to_stored<Stored>(value); });
    __syncthreads();
  }
}

}  // namespace hace
