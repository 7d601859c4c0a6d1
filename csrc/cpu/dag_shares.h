// What all rows of `dag_log_loss` share, beyond its arguments: it follows from the table of targets
// and the DAG.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dag_block_kernel.h"

namespace hace {

// What places keep of 1 on every class, once that has risen.
template <typename Real>
struct DagUnits {
  std::vector<double> kept;
  std::vector<Real> kept_of_line;
  double total = 0, of_columns = 0;

  DagUnits(const Dag& dag, const Targets& targets) : kept(dag.spanning.num_places()) {
    const SpanningTree& spanning = dag.spanning;
    std::vector<double> reaching(targets.unit, targets.unit + dag.num_nodes);
    for (int64_t i = 0; i < dag.num_nodes; ++i) {
      const int32_t v = spanning.by_height[i];
      const int64_t first = dag.parent_ptr[v], last = dag.parent_ptr[v + 1];
      const double each = (1 - targets.keep[v]) / static_cast<double>(last - first) * reaching[v];
      for (int64_t e = first; e < last; ++e) reaching[dag.parent[e]] += each;
      if (spanning.place[v] >= 0) kept[spanning.place[v]] = targets.keep[v] * reaching[v];
    }
    kept_of_line.assign(kept.begin(), kept.end());
    for (const double one : kept) total += one;
    for (int64_t c = 0; c < dag.num_columns; ++c) of_columns += kept[c];
  }

  void bind(DagBlockProblem& problem) const {
    problem.kept_unit = kept.data();
    problem.kept_unit_of_line = kept_of_line.data();
    problem.total_unit = total;
    problem.column_unit = of_columns;
  }
};

// What the sources of a plan keep of the mass that reaches them, by place, and hand to each of
// their parents. It has the share that a target has, if targets are the columns in their order.
template <typename Real>
struct DagShares {
  bool mass_is_by_column;
  std::vector<Real> kept, handed;

  DagShares(const Dag& dag, const DagPlan& plan, const Targets& targets)
      : mass_is_by_column(
            targets.num_targets == dag.num_columns &&
            std::equal(plan.source, plan.source + dag.num_columns, targets.target_place)),
        kept(dag.spanning.num_places()),
        handed(dag.num_columns + plan.num_rising) {
    for (int64_t i = 0; i < dag.num_columns + plan.num_rising; ++i) {
      const int32_t v = plan.source[i];
      if (v < 0) continue;
      const bool is_column = i < dag.num_columns;
      const double share = is_column && mass_is_by_column ? targets.share[i] : 1;
      const int64_t place = is_column ? i : dag.num_columns + plan.line[i - dag.num_columns];
      const int32_t links = plan.link_ptr[i + 1] - plan.link_ptr[i];
      kept[place] = static_cast<Real>(targets.keep[v] * share);
      handed[i] = static_cast<Real>((1 - targets.keep[v]) / links * share);
    }
  }

  void bind(DagBlockProblem& problem) const {
    problem.mass_is_by_column = mass_is_by_column;
    problem.kept_with_share = kept.data();
    problem.handed_with_share = handed.data();
  }
};

// What only the kernel needs that takes each place by itself.
template <typename Real>
struct DagParts {
  std::vector<int32_t> part_index, with_children;
  std::vector<Real> kept, handed;
  int64_t num_part_places = 0;

  DagParts(const Dag& dag, const Targets& targets) {
    const SpanningTree& spanning = dag.spanning;
    part_index.assign(spanning.tree.num_places(), -1);
    for (int64_t i = 0; i < spanning.part_ptr[spanning.num_mixed]; ++i) {
      int32_t& index = part_index[spanning.part[i]];
      if (index < 0) index = static_cast<int32_t>(num_part_places++);
    }
    if (!targets.mass) return;
    kept.assign(spanning.num_places(), 0);
    handed.assign(dag.num_nodes, 0);
    for (int64_t i = 0; i < dag.num_nodes; ++i) {
      const int32_t v = spanning.by_height[i];
      const int32_t parents = dag.parent_ptr[v + 1] - dag.parent_ptr[v];
      if (spanning.place[v] >= 0) kept[spanning.place[v]] = static_cast<Real>(targets.keep[v]);
      handed[v] = static_cast<Real>((1 - targets.keep[v]) / parents);
      if (spanning.child_ptr[v] < spanning.child_ptr[v + 1]) with_children.push_back(v);
    }
  }

  void bind(DagBlockProblem& problem) const {
    problem.part_index = part_index.data();
    problem.num_part_places = num_part_places;
    problem.kept = kept.data();
    problem.handed = handed.data();
    problem.with_children = with_children.data();
    problem.num_with_children = static_cast<int64_t>(with_children.size());
  }
};

}  // namespace hace
