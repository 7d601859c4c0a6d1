// Lets the mass of a row's targets rise along their ancestors only, of which there are a few dozen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dag.h"
#include "targets.h"

namespace hace {

// A node that keeps some of the row's mass.
struct Kept {
  int32_t node;
  double q;
};

class Rise {
 public:
  // Between rows everything is 0 or false.
  void start(const Dag& dag) {
    if (static_cast<int64_t>(mass_.size()) >= dag.num_nodes) return;
    mass_.resize(dag.num_nodes, 0);
    seen_.resize(dag.num_nodes, false);
  }

  // Lets the mass of the row's targets rise; returns the nodes that keep any of it.
  const std::vector<Kept>& run(const Dag& dag, const Targets& targets, int64_t row) {
    kept_.clear();
    if (targets.num_indices != 1 || !run_chain(dag, targets, row)) run_any(dag, targets, row);
    return kept_;
  }

 private:
  // As `run`, for a single target; false if one of its ancestors has several parents.
  bool run_chain(const Dag& dag, const Targets& targets, int64_t row) {
    const int64_t target = targets.index[row];
    const double weight = targets.index_weight ? targets.index_weight[row] : 1;
    if (target == targets.ignore_index || weight == 0) return true;
    int32_t node = targets.target_place[target];
    double mass = weight * targets.share[target];
    while (true) {
      const int32_t first = dag.parent_ptr[node], num_parents = dag.parent_ptr[node + 1] - first;
      if (num_parents > 1) {
        kept_.clear();
        return false;
      }
      const double q = targets.keep[node] * mass;
      if (q != 0) kept_.push_back({node, q});
      if (num_parents == 0) return true;
      mass = (1 - targets.keep[node]) * mass;
      node = dag.parent[first];
    }
  }

  void run_any(const Dag& dag, const Targets& targets, int64_t row) {
    nodes_.clear();
    for (int64_t k = 0; k < targets.num_indices; ++k) {
      const int64_t at = row * targets.num_indices + k;
      const int64_t target = targets.index[at];
      const double weight = targets.index_weight ? targets.index_weight[at] : 1;
      if (target == targets.ignore_index || weight == 0) continue;
      const int32_t node = targets.target_place[target];
      meet(dag, node);
      mass_[node] += weight * targets.share[target];
    }
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const int32_t v = nodes_[i].node;
      for (int32_t e = dag.parent_ptr[v]; e < dag.parent_ptr[v + 1]; ++e) meet(dag, dag.parent[e]);
    }
    std::sort(nodes_.begin(), nodes_.end(),
              [](const Met& a, const Met& b) { return a.key() < b.key(); });
    for (const Met& met : nodes_) {
      const int32_t v = met.node;
      const int64_t first = dag.parent_ptr[v], last = dag.parent_ptr[v + 1];
      const double mass = mass_[v], q = targets.keep[v] * mass;
      for (int64_t e = first; e < last; ++e)
        mass_[dag.parent[e]] += (1 - targets.keep[v]) / static_cast<double>(last - first) * mass;
      if (q != 0) kept_.push_back({v, q});
      mass_[v] = 0;
      seen_[v] = false;
    }
  }

  // A node that mass may reach. Children have smaller keys than their parents.
  struct Met {
    int32_t height, node;
    int64_t key() const { return int64_t{height} << 32 | node; }
  };

  void meet(const Dag& dag, int32_t node) {
    if (seen_[node]) return;
    seen_[node] = true;
    nodes_.push_back({dag.height[node], node});
  }

  std::vector<double> mass_;
  std::vector<char> seen_;
  std::vector<Met> nodes_;
  std::vector<Kept> kept_;
};

}  // namespace hace
