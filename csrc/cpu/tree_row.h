// `tree_log_loss` of a single row: the children of a node side by side, where
// tree_log_loss_kernel.cpp has a row in each lane of a vector and would leave all but one idle.
//
// With e_j = exp(z_j - max) and S_v their sum below v,
//
//   L = W log S_root - sum_v q_v log S_v,     dL/dz_j = e_j (W / S_root - sum_{v above j} q_v /
//   S_v) - q_j
//
// in which log P of a column itself is z_j - max - log S_root. One maximum serves the whole row: it
// is left to the block kernel where some S_v is too small for that.
//
// Bytes, fp32: the logits are read and the gradient is written once; the exponentials (4 a column)
// and the mass (4 a place) pass through the cache twice.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "log.h"
#include "row_loops.h"
#include "tree_log_loss_kernel.h"
#include "tree_sweeps.h"

namespace {

template <typename Stored>
struct TreeRow {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int kLanes = Lanes<Real>::kCount;
  static constexpr Real kSmallest = sizeof(Real) == 4 ? Real(0x1p-64) : Real(0x1p-900);

  const hace::TreeLogLossProblem& problem;
  const Tree& tree;
  const int64_t row;
  const Stored* const logits;
  Real* const e;    // by column
  Real* const sum;  // by inner place: S, then sum of q / S at and above it
  Real* const q;    // by place

  // Values beyond two a place that it takes of the block's lines.
  static constexpr int64_t kPadding = 128;

  // Whether rows of this kind of target can be worked on one by one.
  static bool takes(const hace::TreeLogLossProblem& problem) {
    return problem.index && !problem.log_similarity && problem.eps == 0;
  }

  TreeRow(const hace::TreeLogLossProblem& problem, int64_t row, void* values)
      : problem(problem),
        tree(problem.tree),
        row(row),
        logits(static_cast<const Stored*>(problem.logits) + row * problem.row_stride),
        e(static_cast<Real*>(values)),
        sum(e + (tree.num_classes + 63) / 64 * 64),
        q(sum + (tree.num_inner + 63) / 64 * 64) {}

  // False where the row's masses are too far apart; nothing but scratch has been written then.
  bool run() {
    const Real top = max_of<Real>(logits, tree.num_classes);
    if (!(top > -std::numeric_limits<Real>::infinity())) return false;
    exp_of(logits, tree.num_classes, top, e, Soon{nullptr, nullptr});
    if (!sum_up()) return false;
    place_indices();

    double total = 0, loss = 0;
    add_inner(total, loss);
    add_columns(top, total, loss);
    const double all = sum[tree.num_inner - 1];
    problem.loss[row] = total * std::log(all) - loss;
    if (problem.grad) write(total / all);
    return true;
  }

 private:
  template <typename Each>
  void for_children(int64_t v, Each each) const {
    const int32_t* const begin = tree.child + tree.child_ptr[v];
    each(begin, tree.child + tree.child_ptr[v + 1] - begin, problem.is_run[v]);
  }

  Real of_place(int32_t place) const {
    return place < tree.num_classes ? e[place] : sum[place - tree.num_classes];
  }

  bool sum_up() {
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      double all = 0;
      for_children(v, [&](const int32_t* child, int64_t count, bool is_run) {
        if (!is_run) {
          for (int64_t i = 0; i < count; ++i) all += of_place(child[i]);
          return;
        }
        constexpr int64_t kRunSize = 4096;
        const Real* const from =
            child[0] < tree.num_classes ? e + child[0] : sum + (child[0] - tree.num_classes);
        for (int64_t i = 0; i < count; i += kRunSize)
          all += sum_of(from + i, count - i < kRunSize ? count - i : kRunSize);
      });
      sum[v] = static_cast<Real>(all);
      if (!(sum[v] >= kSmallest)) return false;
    }
    return true;
  }

  void place_indices() {
    double on_every_class = problem.row_spread;
    thread_local std::vector<std::pair<int32_t, double>> on_columns;
    on_columns.clear();
    const auto for_targets = [&](auto each) {
      for (int64_t k = 0; k < problem.num_indices; ++k) {
        const int64_t at = row * problem.num_indices + k;
        const int64_t target = problem.index[at];
        const double weight = problem.index_weight ? problem.index_weight[at] : 1;
        if (target != problem.ignore_index && weight != 0) each(target, weight);
      }
    };
    for_targets([&](int64_t target, double weight) {
      if (problem.spread) on_every_class += weight * problem.spread[target];
    });
    spread_out(static_cast<Real>(problem.spreads ? on_every_class : 0));
    for_targets([&](int64_t target, double weight) {
      double reached = weight * problem.share[target];
      const double cut = std::isfinite(reached) ? 0x1p-60 * std::fabs(reached) : 0;
      for (int32_t place = problem.target_place[target];
           place < tree.root() && !(std::fabs(reached) <= cut); place = tree.parent[place]) {
        if (place < tree.num_classes)
          add_up(on_columns, place, reached);
        else
          q[place] += static_cast<Real>(problem.keep[place] * reached);
        reached *= 1 - problem.keep[place];
      }
    });
    // What a target puts on its own column, and what every class gets, may cancel.
    for (const auto& [column, reached] : on_columns) {
      const double as_any = problem.spreads ? on_every_class * problem.unit[column] : 0;
      q[column] = static_cast<Real>(problem.keep[column] * (as_any + reached));
    }
  }

  static void add_up(std::vector<std::pair<int32_t, double>>& on_columns, int32_t column,
                     double reached) {
    for (auto& own : on_columns)
      if (own.first == column) {
        own.second += reached;
        return;
      }
    on_columns.emplace_back(column, reached);
  }

  void spread_out(Real alpha) {
    const Real* const kept_unit = static_cast<const Real*>(problem.kept_unit);
    if (alpha == 0 || !kept_unit) {
      std::memset(q, 0, tree.num_places() * sizeof(Real));
      return;
    }
    for_vectors(tree.num_places(), [&](int64_t i, auto count) {
      store_first(q + i, load_first(kept_unit + i, count) * alpha, count);
    });
  }

  // Calls step(first, count), in whole vectors as far as they go.
  template <typename Step>
  static void for_vectors(int64_t size, Step step) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) step(i, std::integral_constant<int64_t, kLanes>{});
    if (i < size) step(i, size - i);
  }

  // Adds to total and loss what pairs(first, count) gives, in float64 every kRun vectors.
  template <typename Terms>
  static void add_terms(int64_t size, double& total, double& loss, Terms terms) {
    constexpr int64_t kStep = kRun * kLanes;
    for (int64_t first = 0; first < size; first += kStep) {
      Line run_total = {}, run_loss = {};
      for_vectors(size - first < kStep ? size - first : kStep,
                  [&](int64_t i, auto count) { terms(first + i, count, run_total, run_loss); });
      total += horizontal_sum<Real>(run_total);
      loss += horizontal_sum<Real>(run_loss);
    }
  }

  // Of all inner places but the root; leaves q / S in the place of S.
  void add_inner(double& total, double& loss) {
    const Real* const mass = q + tree.num_classes;
    add_terms(tree.num_inner - 1, total, loss, [&](int64_t i, auto count, Line& t, Line& l) {
      const Line here = load_first(mass + i, count), s = load_first(sum + i, count);
      const Line log = first_lanes<Real>(log_of<Real>(s), count, 0);
      t += here;
      l += here == 0 ? Line{} : here * log;
      store_first(sum + i, first_lanes<Real>(here / s, count, 0), count);
    });
  }

  void add_columns(Real top, double& total, double& loss) {
    add_terms(tree.num_classes, total, loss, [&](int64_t i, auto count, Line& t, Line& l) {
      const Line here = load_first(q + i, count);
      t += here;
      l += here == 0 ? Line{} : here * (load_first(logits + i, count) - top);
    });
  }

  void write(double of_total) {
    const double factor = problem.factor[row];
    Stored* const grad = static_cast<Stored*>(problem.grad) + row * tree.num_classes;
    Real* const above = sum;  // sum of q / S from here to the root
    above[tree.num_inner - 1] = 0;
    for (int64_t v = tree.num_inner - 2; v >= 0; --v)
      above[v] += above[tree.parent[tree.num_classes + v] - tree.num_classes];
    const Real of_mass = static_cast<Real>(factor);
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      const Real of_exp = static_cast<Real>(factor * (of_total - above[v]));
      for_children(v, [&](const int32_t* child, int64_t count, bool is_run) {
        if (!is_run) {
          for (int64_t i = 0; i < count && child[i] < tree.num_classes; ++i) {
            const Real value = e[child[i]] * of_exp - q[child[i]] * of_mass;
            store_first(grad + child[i], broadcast(value), 1);
          }
        } else if (child[0] < tree.num_classes) {
          const int32_t first = child[0];
          for_vectors(count, [&](int64_t i, auto n) {
            store_first(
                grad + first + i,
                load_first(e + first + i, n) * of_exp - load_first(q + first + i, n) * of_mass, n);
          });
        }
      });
    }
  }
};

}  // namespace
