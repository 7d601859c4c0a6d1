// The kernel of `tree_log_loss`.
//
// The targets' mass rises together with the logits' sums, m_v = m0_v + sum_c (1 - keep_c) m_c, and
// node v keeps q_v = keep_v m_v of it. With W = sum_v q_v, and max and sum as in tree_sweeps.cuh,
//
//   L = -sum_v q_v log P_v = W log sum_root - sum_v q_v ((max_v - max_root) + log sum_v)
//
// and the gradient is what the mass pulls on the way down (`Pull`). With eps the loss is
// -sum_v q_v log(P_v + eps), and its gradient is that of the mass q_v P_v / (P_v + eps).
//
// Traffic with device memory per row of C columns and T targets as mass: C logits (and T masses)
// in, C gradients out. The row is read two more times from L1 or L2, each time with about 8 bytes
// per column (20 for targets as mass) of tables that all rows share.
#pragma once

#include "tree_loss.cuh"
#include "tree_targets.cuh"

namespace hace {

template <typename Stored>
struct TreeLogLossProblem : TreeLossRows<Stored> {
  Tree tree;
  TargetTables<work_t<Stored>> tables;
};

template <typename Stored>
struct LossRise {
  using Real = work_t<Stored>;
  struct Part {
    LogSum<Real> log;
    Real reached;
  };

  LogRise<Stored> log;
  const ColumnMass<Real>& columns;
  bool columns_have_mass;

  __device__ __forceinline__ Part none() const { return {log.none(), Real(0)}; }

  __device__ __forceinline__ void add(Part& part, int v, const int32_t (&child)[kTile]) const {
    Real reached = 0;
#pragma unroll
    for (int j = 0; j < kTile; ++j) {
      const int32_t c = child[j];
      if (c >= log.num_classes)
        reached += static_cast<Real>(1 - columns.targets.keep[c]) *
                   columns.values.mass(c - log.num_classes);
      else if (c >= 0 && columns_have_mass)
        reached += columns.handed(c, v);
    }
    part.reached += reached;
    log.add(part.log, v, child);
  }

  __device__ __forceinline__ void merge(Part& part, int lanes) const {
    log.merge(part.log, lanes);
    part.reached = group_sum(part.reached, lanes);
  }

  __device__ __forceinline__ void end(int v, Part part) const {
    log.end(v, part.log);
    columns.values.mass(v) += part.reached;
  }
};

template <typename Stored>
__device__ __forceinline__ void tree_log_loss_row(const TreeLogLossProblem<Stored>& problem,
                                                  int64_t row) {
  using Real = work_t<Stored>;
  const Tree& tree = problem.tree;
  const Targets& targets = problem.targets;
  const int num_classes = static_cast<int>(tree.num_classes);
  const int root = static_cast<int>(tree.num_inner) - 1;
  const Stored* const logits = problem.logits + row * problem.row_stride;
  const RowValues<Real> values(targets, tree, problem.memory.of_block());
  const ColumnMass<Real> columns =
      put_targets(tree, problem.levels, targets, problem.tables, values, row);
  const bool columns_have_mass = columns.on_all() || columns.own_blocks;
  const LogRise<Stored> log{logits, num_classes, values.log_sum};
  sweep_up(tree, problem.levels, LossRise<Stored>{log, columns, columns_have_mass});

  Measure<Real> measure{values.log_sum[root], static_cast<Real>(problem.eps)};
  for (int v = static_cast<int>(threadIdx.x); v <= root; v += static_cast<int>(blockDim.x)) {
    const Real q = static_cast<Real>(targets.keep[num_classes + v]) * values.mass(v);
    values.mass(v) = v == root ? Real(0) : measure.add(q, values.log_sum[v]);
  }
  struct Column {
    Real logit, kept;
    int above;
  };
  const auto column = [&](int c) {
    const int above = tree.parent[c] - num_classes;
    const Real kept = columns_have_mass ? columns.kept(c, above) : Real(0);
    return Column{to_work(logits[c]), kept, above};
  };
  if (columns.on_all()) {
    for_each(num_classes, column,
             [&](int, const Column& c) { measure.add(c.kept, {c.logit, Real(1)}); });
  } else {
    for (int k = static_cast<int>(threadIdx.x); k < targets.num_indices;
         k += static_cast<int>(blockDim.x)) {
      const Own<Real>& own = values.own(k);
      if (own.column >= 0) measure.add(own.kept, {to_work(logits[own.column]), Real(1)});
    }
  }
  const double total = store_loss(problem, row, measure, columns.alpha);
  if (!problem.grad) return;

  const Real factor = static_cast<Real>(problem.gradient_factor(1.0, row));
  Stored* const grad = problem.grad + row * tree.num_classes;
  const Pull<Real> pull{tree, values.log_sum, &values.mass(0)};
  pull.go_down(problem.levels, static_cast<Real>(total));
  for_each(num_classes, column, [&](int i, const Column& c) {
    Real q = c.kept;
    if (measure.eps > 0 && q != 0) q = measure.faded(q, measure.probability({c.logit, Real(1)}));
    grad[i] = to_stored<Stored>((pull.on(i, {c.logit, Real(1)}, c.above) - q) * factor);
  });
}

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    tree_log_loss_kernel(TreeLogLossProblem<Stored> problem) {
  for_rows_that_count(problem, problem.tree.num_classes,
                      [&](int64_t row) { tree_log_loss_row(problem, row); });
}

}  // namespace hace
