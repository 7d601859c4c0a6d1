// The kernel of `dag_log_loss`: one block per row.
//
// A tree of the DAG's links (SpanningTree) is swept as in tree_log_loss.cuh, whose terms are used
// here. A *mixed* node u is not a place of that tree. The columns below it are those of its
// *parts*, places of the tree that have no column in common, so that S_u = sum over parts t of S_t.
// Its gradient is that of the mass q_u S_t / S_u on each part: every share is at most 1, and
// nothing is subtracted.
//
// Mass rises along all links of the DAG, level by level. A node gets from its children
//
//   m_v += sum over children c of (1 - keep_c) / (number of c's parents) m_c
//
// Whoever needs a sum adds it up by itself, in a fixed order: a node over its children and over its
// parts, a place over the mixed nodes that it is part of. So there are no atomics.
//
// Traffic with device memory per row of C columns and T targets as mass: C logits (and T masses)
// in, C gradients out. The row's values, 4 bytes per place and 8 per inner place and mixed node,
// are in shared memory if they fit there.
#pragma once

#include "../dag.h"
#include "mixed_nodes.cuh"
#include "tree_loss.cuh"
#include "tree_sweeps.cuh"

namespace hace {

// ---- what all rows share ----

template <typename Real>
struct DagTables {
  const Real* kept;    // by place: `keep` of its node; 0 at places that are not a node's
  const Real* unit;    // by place: the mass that 1 on every class puts there; 0 likewise
  const Real* handed;  // by node: what it hands to each of its parents
  Inverse targets;     // by node, for targets as mass
};

// How many values of the working type the tables take.
inline int64_t dag_table_values(const Dag& dag) {
  return 2 * dag.spanning.num_places() + dag.num_nodes;
}

template <typename Real>
__global__ void dag_tables_kernel(Dag dag, const double* keep, const double* unit, Real* kept,
                                  Real* put, Real* handed) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (v >= dag.num_nodes) return;
  const int parents = dag.parent_ptr[v + 1] - dag.parent_ptr[v];
  handed[v] = parents ? static_cast<Real>((1 - keep[v]) / parents) : Real(0);
  const int place = dag.spanning.place[v];
  if (place < 0) return;
  kept[place] = static_cast<Real>(keep[v]);
  put[place] = static_cast<Real>(unit[v]);
}

template <typename Real>
inline DagTables<Real> make_tables(const Dag& dag, const Targets& targets, const Inverse& at,
                                   Real* memory, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t num_places = dag.spanning.num_places();
  Real* const kept = memory;
  Real* const unit = kept + num_places;
  Real* const handed = unit + num_places;
  cudaMemsetAsync(memory, 0, 2 * num_places * sizeof(Real), stream);
  const unsigned blocks = static_cast<unsigned>((dag.num_nodes + kThreads - 1) / kThreads);
  if (blocks > 0)
    HACE_LAUNCH((dag_tables_kernel<Real>), dim3(blocks), dim3(kThreads), 0, stream, dag,
                targets.keep, targets.unit, kept, unit, handed);
  return {kept, unit, handed, at};
}

template <typename Stored>
struct DagLogLossProblem : TreeLossRows<Stored> {
  Dag dag;
  Levels heights;  // of the nodes in by_height
  DagTables<work_t<Stored>> tables;
};

// ---- a row ----

// A row's values in its block's memory.
template <typename Real>
struct DagRowValues {
  LogSum<Real>* log_sum;   // by inner place
  LogSum<Real>* of_mixed;  // by mixed node
  Real* mass;  // by place, mixed ones included: what reaches it, then what it keeps, then the pull

  static int64_t bytes(const SpanningTree& spanning) {
    const int64_t sums = spanning.tree.num_inner + spanning.num_mixed;
    return (2 * sums + spanning.num_places()) * static_cast<int64_t>(sizeof(Real));
  }

  __device__ __forceinline__ DagRowValues(const SpanningTree& spanning, unsigned char* memory)
      : log_sum(reinterpret_cast<LogSum<Real>*>(memory)),
        of_mixed(log_sum + spanning.tree.num_inner),
        mass(reinterpret_cast<Real*>(of_mixed + spanning.num_mixed)) {}
};

template <typename Stored>
struct DagLogLossRow {
  using Real = work_t<Stored>;

  const DagLogLossProblem<Stored>& problem;
  const int64_t row;
  const Dag& dag;
  const SpanningTree& spanning;
  const Tree& tree;
  const Targets& targets;
  const Stored* const logits;
  const DagRowValues<Real> values;
  const int num_columns, num_places, num_mixed;
  const int thread, threads;

  __device__ __forceinline__ DagLogLossRow(const DagLogLossProblem<Stored>& problem, int64_t row)
      : problem(problem),
        row(row),
        dag(problem.dag),
        spanning(problem.dag.spanning),
        tree(problem.dag.spanning.tree),
        targets(problem.targets),
        logits(problem.logits + row * problem.row_stride),
        values(problem.dag.spanning, problem.memory.of_block()),
        num_columns(static_cast<int>(tree.num_classes)),
        num_places(num_columns + static_cast<int>(tree.num_inner)),
        num_mixed(static_cast<int>(spanning.num_mixed)),
        thread(static_cast<int>(threadIdx.x)),
        threads(static_cast<int>(blockDim.x)) {}

  __device__ __forceinline__ LogSum<Real> at(int place) const {
    if (place < num_columns) return {to_work(logits[place]), Real(1)};
    return values.log_sum[place - num_columns];
  }

  // ---- targets ----

  // The mass that every class gets, or NaN if a target is not valid.
  __device__ __forceinline__ double on_every_class() const {
    double put = 0;
    if (targets.mass) {
      const Real* const mass = mass_of_row();
      if (targets.spread || *problem.tables.targets.lost != kNothing)
        for (int64_t t = thread; t < targets.num_targets; t += threads) {
          if (mass[t] != 0 && targets.target_place[t] < 0) put = not_a_number<double>();
          if (targets.spread) put += mass[t] * targets.spread[t];
        }
    } else {
      for (int64_t k = thread; k < targets.num_indices; k += threads) {
        const int64_t target = index_at(k);
        if (target == targets.ignore_index) continue;
        const bool valid = target >= 0 && target < targets.num_targets;
        if (!valid || targets.target_place[target] < 0)
          put = not_a_number<double>();
        else if (targets.spread && weight_at(k) != 0)
          put += weight_at(k) * targets.spread[target];
      }
    }
    return targets.row_spread + block_sum(put);
  }

  // Puts the targets' mass on the places of their nodes, and `alpha` on every class.
  __device__ __forceinline__ void put_targets(double alpha) const {
    const int all = num_places + num_mixed;
    for (int place = thread; place < all; place += threads)
      values.mass[place] =
          alpha == 0 ? Real(0) : static_cast<Real>(alpha) * problem.tables.unit[place];
    __syncthreads();
    if (targets.mass) {
      const Real* const mass = mass_of_row();
      for (int v = thread; v < dag.num_nodes; v += threads) {
        double put = 0;
        bool any = false;
        problem.tables.targets.for_each_at(v, [&](int t) {
          put += targets.share[t] * mass[t];
          any = true;
        });
        if (any) values.mass[spanning.place[v]] += static_cast<Real>(put);
      }
    }
    for (int k = thread; k < targets.num_indices; k += threads) put_index(k, alpha);
    __syncthreads();
  }

  // Lets the mass rise from children to parents, level by level.
  __device__ __forceinline__ void rise() const {
    for (int height = 1; height < problem.heights.count; ++height) {
      const int last = problem.heights.bound(height + 1);
      for_groups(problem.heights.bound(height), last, [&](int i, int lane) {
        const int v = i < last ? spanning.by_height[i] : kNothing;
        const int begin = v >= 0 ? spanning.child_ptr[v] : 0;
        const int end = v >= 0 ? spanning.child_ptr[v + 1] : 0;
        double risen = 0;
        for (int e = begin + lane; e < end; e += kGroup) {
          const int child = spanning.child[e], place = spanning.place[child];
          if (place >= 0) risen += problem.tables.handed[child] * values.mass[place];
        }
        risen = group_sum(risen, kGroup);
        if (v >= 0 && lane == 0 && spanning.place[v] >= 0)
          values.mass[spanning.place[v]] += static_cast<Real>(risen);
      });
      __syncthreads();
    }
  }

  // ---- losses ----

  // Adds the losses at places of the tree. Their mass is replaced by the mass that pulls.
  __device__ __forceinline__ void measure_places(Measure<Real>& measure) const {
    for (int place = thread; place < num_places - 1; place += threads)
      values.mass[place] = measure.add(problem.tables.kept[place] * values.mass[place], at(place));
    if (thread == 0) values.mass[num_places - 1] = 0;
  }

  // Adds the losses at mixed nodes. Their mass is replaced by q / S: the mass q that pulls, divided
  // by the node's sum in units of exp(max), or by its number of columns where that sum is 0.
  __device__ __forceinline__ void measure_mixed(Measure<Real>& measure) const {
    for_groups(0, num_mixed, [&](int x, int lane) {
      const bool here = x < num_mixed;
      const int begin = here ? spanning.part_ptr[x] : 0;
      const int end = here ? spanning.part_ptr[x + 1] : 0;
      Real top = lowest<Real>();
      for (int i = begin + lane; i < end; i += kGroup) top = max(top, at(spanning.part[i]).max);
      top = group_max(top, kGroup);
      double all = 0;
      int columns = 0;
      for (int i = begin + lane; i < end; i += kGroup) {
        const LogSum<Real> part = at(spanning.part[i]);
        all += part.sum * exp_of(part.max - top);
        columns += tree.num_columns[spanning.part[i]];
      }
      const Real sum = static_cast<Real>(group_sum(all, kGroup));
      columns = group_sum(columns, kGroup);
      if (!here || lane != 0) return;
      Real& mass = values.mass[num_places + x];
      const Real q = measure.add(problem.tables.kept[num_places + x] * mass, {top, sum});
      values.of_mixed[x] = {top, sum};
      mass = q == 0 ? Real(0) : q / (sum == 0 ? Real(columns) : sum);
    });
  }

  // Mixed nodes hand their mass to their parts, in proportion.
  __device__ __forceinline__ void hand_to_parts() const {
    for (int place = thread; place < num_places - 1; place += threads) {
      const int begin = spanning.holder_ptr[place], end = spanning.holder_ptr[place + 1];
      if (begin == end) continue;
      const LogSum<Real> part = at(place);
      double handed = 0;
      for (int i = begin; i < end; ++i) {
        const int x = spanning.holder[i];
        const Real mass = values.mass[num_places + x];
        if (mass == 0) continue;
        const LogSum<Real> mixed = values.of_mixed[x];
        const Real share = mixed.sum == 0 ? Real(tree.num_columns[place])
                                          : part.sum * exp_of(part.max - mixed.max);
        handed += mass * share;
      }
      values.mass[place] += static_cast<Real>(handed);
    }
  }

  __device__ __forceinline__ void run() const {
    const double alpha = on_every_class();
    put_targets(alpha);
    rise();
    sweep_up(tree, problem.levels, LogRise<Stored>{logits, num_columns, values.log_sum});
    Measure<Real> measure{values.log_sum[tree.num_inner - 1], static_cast<Real>(problem.eps)};
    measure_places(measure);
    measure_mixed(measure);
    __syncthreads();

    const double total = store_loss(problem, row, measure, alpha);
    if (!problem.grad) return;

    hand_to_parts();
    __syncthreads();
    const Real factor = static_cast<Real>(problem.gradient_factor(1.0, row));
    Stored* const grad = problem.grad + row * num_columns;
    const Pull<Real> pull{tree, values.log_sum, values.mass + num_columns};
    pull.go_down(problem.levels, static_cast<Real>(total));
    struct Column {
      Real logit;
      int above;
    };
    for_each(
        num_columns,
        [&](int c) { return Column{to_work(logits[c]), tree.parent[c] - num_columns}; },
        [&](int c, const Column& column) {
          const Real pulled = pull.on(c, {column.logit, Real(1)}, column.above);
          grad[c] = to_stored<Stored>((pulled - values.mass[c]) * factor);
        });
  }

 private:
  __device__ __forceinline__ const Real* mass_of_row() const {
    return static_cast<const Real*>(targets.mass) + row * targets.mass_stride;
  }
  __device__ __forceinline__ int64_t index_at(int64_t k) const {
    return targets.index[row * targets.num_indices + k];
  }
  __device__ __forceinline__ double weight_at(int64_t k) const {
    return targets.index_weight ? targets.index_weight[row * targets.num_indices + k] : 1.0;
  }

  // The node of the k-th target, or kNothing if it puts nothing anywhere.
  __device__ __forceinline__ int node_at(int64_t k) const {
    const int64_t target = index_at(k);
    if (target == targets.ignore_index || target < 0 || target >= targets.num_targets)
      return kNothing;
    return weight_at(k) == 0 ? kNothing : targets.target_place[target];
  }

  // Puts the mass of the k-th target on its node. Equal targets are added up before rounding.
  __device__ __forceinline__ void put_index(int k, double alpha) const {
    const int node = node_at(k);
    if (node < 0) return;
    for (int j = 0; j < k; ++j)
      if (node_at(j) == node) return;
    double put = 0;
    for (int j = k; j < targets.num_indices; ++j)
      if (node_at(j) == node) put += weight_at(j) * targets.share[index_at(j)];
    if (alpha != 0) put += rounded_product(alpha, targets.unit[node]);
    values.mass[spanning.place[node]] = static_cast<Real>(put);
  }
};

template <typename Stored>
__global__ void __launch_bounds__(kMaxRowThreads, kRowBlocks<Stored>)
    dag_log_loss_kernel(DagLogLossProblem<Stored> problem) {
  for_rows_that_count(problem, problem.dag.num_columns,
                      [&](int64_t row) { DagLogLossRow<Stored>(problem, row).run(); });
}

}  // namespace hace
