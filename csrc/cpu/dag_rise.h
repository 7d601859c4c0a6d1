// Lets the mass of a row's targets rise along their ancestors only, of which there are a few dozen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
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
    nodes_.clear();
    kept_.clear();
    for (int64_t k = 0; k < targets.num_indices; ++k) {
      const int64_t at = row * targets.num_indices + k;
      const int64_t target = targets.index[at];
      const double weight = targets.index_weight ? targets.index_weight[at] : 1;
      if (target == targets.ignore_index || weight == 0) continue;
      const int32_t node = targets.target_place[target];
      meet(node);
      mass_[node] += weight * targets.share[target];
    }
    for (size_t i = 0; i < nodes_.size(); ++i)
      for (int64_t e = dag.parent_ptr[nodes_[i]]; e < dag.parent_ptr[nodes_[i] + 1]; ++e)
        meet(dag.parent[e]);
    std::sort(nodes_.begin(), nodes_.end(), [&](int32_t a, int32_t b) {
      return std::make_pair(dag.height[a], a) < std::make_pair(dag.height[b], b);
    });
    for (const int32_t v : nodes_) {
      const int64_t first = dag.parent_ptr[v], last = dag.parent_ptr[v + 1];
      const double mass = mass_[v], q = targets.keep[v] * mass;
      for (int64_t e = first; e < last; ++e)
        mass_[dag.parent[e]] += (1 - targets.keep[v]) / static_cast<double>(last - first) * mass;
      if (q != 0) kept_.push_back({v, q});
    }
    for (const int32_t v : nodes_) {
      mass_[v] = 0;
      seen_[v] = false;
    }
    return kept_;
  }

 private:
  void meet(int32_t node) {
    if (seen_[node]) return;
    seen_[node] = true;
    nodes_.push_back(node);
  }

  std::vector<double> mass_;
  std::vector<bool> seen_;
  std::vector<int32_t> nodes_;
  std::vector<Kept> kept_;
};

}  // namespace hace
