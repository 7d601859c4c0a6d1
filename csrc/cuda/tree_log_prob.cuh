// The kernels of `tree_log_prob`.
//
//   log P_v = (max_v - max_root) + (log sum_v - log sum_root)
//
// with max and sum as in tree_sweeps.cuh. The backward, for incoming gradients g_v, is the negative
// of what a mass of g_v on every node v pulls; nodes of probability 0 have no mass.
//
// The columns below a mixed node u of a DAG are those of its parts, places of the tree that have no
// column in common: its sum is the sum of theirs, and what it pulls is what the mass
// g_u sum_t / sum_u pulls on each part t. A tree has none.
//
// Traffic with device memory per row of N nodes and C columns: C values in and N out; in the
// backward N + C in and C out. Values are read again from L1 or L2.
#pragma once

#include "mixed_nodes.cuh"
#include "tree_sweeps.cuh"

namespace hace {

template <typename Stored>
struct TreeLogProbProblem {
  using Real = work_t<Stored>;

  Tree tree;
  MixedNodes mixed;
  Levels levels;
  RowMemory memory;
  int64_t num_rows;
  const Stored* logits;  // (rows, C), unit stride along a row
  int64_t row_stride;
  Real* log_prob;          // (rows, N) contiguous
  const Real* grad;        // (rows, N), backward only
  int64_t grad_stride;     // of its rows
  Stored* grad_logits;     // (rows, C) contiguous
  const int32_t* node_at;  // by place, backward only
};

template <typename Stored>
inline int64_t tree_log_prob_row_bytes(const Tree& tree, const MixedNodes& mixed, bool backward) {
  return (backward ? 3 : 2) * (tree.num_inner + mixed.count) *
         static_cast<int64_t>(sizeof(work_t<Stored>));
}

// The log-sums by inner place, and after these by mixed node.
template <typename Stored>
__device__ __forceinline__ void find_log_sums(const TreeLogProbProblem<Stored>& problem,
                                              const Stored* logits,
                                              LogSum<work_t<Stored>>* log_sum) {
  using Real = work_t<Stored>;
  const int num_classes = static_cast<int>(problem.tree.num_classes);
  sweep_up(problem.tree, problem.levels, LogRise<Stored>{logits, num_classes, log_sum});
  if (problem.mixed.count == 0) return;
  const auto at = [&](int place) {
    return place < num_classes ? LogSum<Real>{to_work(logits[place]), Real(1)}
                               : log_sum[place - num_classes];
  };
  sum_mixed(problem.mixed, at, log_sum + problem.tree.num_inner);
  __syncthreads();
}

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    tree_log_prob_kernel(TreeLogProbProblem<Stored> problem) {
  using Real = work_t<Stored>;
  const Tree& tree = problem.tree;
  const int num_classes = static_cast<int>(tree.num_classes);
  const int root = static_cast<int>(tree.num_inner) - 1;
  LogSum<Real>* const log_sum = reinterpret_cast<LogSum<Real>*>(problem.memory.of_block());
  for (int64_t row = blockIdx.x; row < problem.num_rows; row += gridDim.x) {
    const Stored* const logits = problem.logits + row * problem.row_stride;
    Real* const log_prob = problem.log_prob + row * tree.num_nodes;
    find_log_sums(problem, logits, log_sum);
    const Real row_max = log_sum[root].max, log_total = log_of(log_sum[root].sum);
    for_each(
        static_cast<int>(tree.num_nodes),
        [&](int node) {
          const int32_t place = tree.place[node];
          if (place < 0) return -infinity<Real>();
          if (place < num_classes) return (to_work(logits[place]) - row_max) - log_total;
          const LogSum<Real> below = log_sum[place - num_classes];
          return (below.max - row_max) + (log_of(below.sum) - log_total);
        },
        [&](int node, Real value) { log_prob[node] = value; });
    __syncthreads();
  }
}

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    tree_log_prob_backward_kernel(TreeLogProbProblem<Stored> problem) {
  using Real = work_t<Stored>;
  const Tree& tree = problem.tree;
  const int num_classes = static_cast<int>(tree.num_classes);
  LogSum<Real>* const log_sum = reinterpret_cast<LogSum<Real>*>(problem.memory.of_block());
  const MixedNodes& mixed = problem.mixed;
  const int num_inner = static_cast<int>(tree.num_inner);
  const int num_mixed = static_cast<int>(mixed.count);
  const LogSum<Real>* const of_mixed = log_sum + num_inner;
  Real* const mass = reinterpret_cast<Real*>(log_sum + num_inner + num_mixed);
  Real* const per_sum = mass + num_inner;  // of mixed nodes
  for (int64_t row = blockIdx.x; row < problem.num_rows; row += gridDim.x) {
    const Stored* const logits = problem.logits + row * problem.row_stride;
    const Real* const grad = problem.grad + row * problem.grad_stride;
    Stored* const grad_logits = problem.grad_logits + row * tree.num_classes;
    find_log_sums(problem, logits, log_sum);

    const auto on_place = [&](int place) {
      const int32_t node = problem.node_at[place];
      return node < 0 ? Real(0) : grad[node];
    };
    const auto on_column = [&](int c, Real logit) {
      return logit == -infinity<Real>() ? Real(0) : on_place(c);
    };
    double total = 0;
    for (int x = static_cast<int>(threadIdx.x); x < num_mixed; x += static_cast<int>(blockDim.x)) {
      const Real sum = of_mixed[x].sum;
      const Real on_x = sum == 0 ? Real(0) : on_place(num_classes + num_inner + x);
      per_sum[x] = on_x == 0 ? Real(0) : on_x / sum;
      total += on_x;
    }
    if (num_mixed > 0) __syncthreads();
    // The mass that mixed nodes put on one of their parts.
    const auto handed = [&](int place, LogSum<Real> part) {
      double put = 0;
      const int end = num_mixed > 0 ? mixed.holder_ptr[place + 1] : 0;
      for (int i = num_mixed > 0 ? mixed.holder_ptr[place] : 0; i < end; ++i) {
        const int x = mixed.holder[i];
        if (per_sum[x] != 0) put += per_sum[x] * (part.sum * exp_of(part.max - of_mixed[x].max));
      }
      return static_cast<Real>(put);
    };
    for_each(
        num_inner, [&](int v) { return log_sum[v].sum == 0 ? Real(0) : on_place(num_classes + v); },
        [&](int v, Real on_v) {
          mass[v] = on_v + handed(num_classes + v, log_sum[v]);
          total += on_v;
        });
    for_each(
        num_classes, [&](int c) { return on_column(c, to_work(logits[c])); },
        [&](int, Real on_c) { total += on_c; });

    const Pull<Real> pull{tree, log_sum, mass};
    pull.go_down(problem.levels, static_cast<Real>(block_sum(total)));
    for_each(
        num_classes,
        [&](int c) {
          const Real logit = to_work(logits[c]);
          const LogSum<Real> here = {logit, Real(1)};
          return on_column(c, logit) + handed(c, here) -
                 pull.on(c, here, tree.parent[c] - num_classes);
        },
        [&](int c, Real value) { grad_logits[c] = to_stored<Stored>(value); });
    __syncthreads();
  }
}

}  // namespace hace
