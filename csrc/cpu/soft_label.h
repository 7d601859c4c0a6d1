// The mass that a soft label puts on places, for the kernels of `tree_log_loss`.
#pragma once

#include <cmath>

#include "tree_log_loss_kernel.h"

namespace {

// Puts `scale` times the distribution over the classes that stands for the target. Calls
// put_alpha(v, delta) for every inner place of its path, and put_at(place, reached) for the excess
// that reaches places; tree_log_loss_kernel.cpp has the formulas.
template <typename PutAlpha, typename PutAt>
inline void put_soft_label(const hace::TreeLogLossProblem& problem, int64_t target, double scale,
                           PutAlpha put_alpha, PutAt put_at) {
  const hace::Tree& tree = problem.tree;
  const int32_t first = problem.target_place[target];
  // Similarities are relative to that of the nearest class, since all may be far away.
  const double nearest = problem.log_similarity[first];
  const auto similarity = [&](int32_t place) {
    return place < 0 ? 0.0 : std::exp(problem.log_similarity[place] - nearest);
  };
  double all = 0;
  int64_t inside = 0;
  for (int32_t place = first; place >= 0; place = tree.parent[place]) {
    all += similarity(place) * (problem.classes_below[place] - inside);
    inside = problem.classes_below[place];
  }
  scale /= all;
  double excess = 0;
  for (int32_t place = first; place >= 0; place = tree.parent[place]) {
    const int32_t above = tree.parent[place];
    const double delta = scale * (similarity(place) - similarity(above));
    if (place >= tree.num_classes)
      put_alpha(place - tree.num_classes, delta);
    else
      excess += delta * problem.unit[place];
    if (place == tree.root()) break;
    put_at(place, excess);
    if (place >= tree.num_classes) excess += delta * problem.reaching[place];
    excess *= 1 - problem.keep[place];
  }
}

}  // namespace
