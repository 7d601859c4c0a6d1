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
// Where most columns are in runs, a node's children one after the other, sums go from node to node.
// Where they are not, columns are passed in their own order, whatever it is: an exponential is
// added to its parent's sum, and takes its factor from its parent. These are fewer than the columns
// and stay in a nearer cache.
//
// Bytes, fp32: the logits are read and the gradient is written once; the exponentials (4 per
// column) and the mass (4 per place) pass through the cache twice.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "log.h"
#include "row_loops.h"
#include "soft_label.h"
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
  Real* const e;         // by column
  Real* const sum;       // by inner place: S, then sum of q / S at and above it
  Real* const q;         // by place
  Real* const alpha;     // by inner place, with soft labels: what every class in its ring has
  double* const rising;  // by inner place: what children have handed to it
  Real* const handed;    // by column, of probabilities: what it hands to its parent

  // Values beyond those of the places that it takes of the block's lines.
  static constexpr int64_t kPadding = 512;

  // Whether rows of this kind of target can be worked on one by one.
  static bool takes(const hace::TreeLogLossProblem& problem) { return problem.eps == 0; }

  static constexpr int64_t padded(int64_t size) { return (size + 63) / 64 * 64; }

  TreeRow(const hace::TreeLogLossProblem& problem, int64_t row, void* values)
      : problem(problem),
        tree(problem.tree),
        row(row),
        logits(static_cast<const Stored*>(problem.logits) + row * problem.row_stride),
        e(static_cast<Real*>(values)),
        sum(e + padded(tree.num_classes)),
        q(sum + padded(tree.num_inner)),
        alpha(q + padded(tree.num_places())),
        rising(reinterpret_cast<double*>(alpha + padded(tree.num_inner))),
        handed(reinterpret_cast<Real*>(rising + padded(tree.num_inner))) {}

  // False where the row's masses are too far apart; nothing but scratch has been written then.
  bool run(hace::TreeLogLossFault* fault) {
    const Real top = max_of<Real>(logits, tree.num_classes);
    if (!(top > -std::numeric_limits<Real>::infinity())) return false;
    exp_of(logits, tree.num_classes, top, e, Soon{nullptr, nullptr});
    if (!(problem.in_runs ? sum_up() : add_up_to_parents())) return false;
    if (problem.mass)
      place_mass(fault);
    else
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

  static double sum_of_run(const Real* from, int64_t count) {
    constexpr int64_t kRunSize = 4096;
    double all = 0;
    for (int64_t i = 0; i < count; i += kRunSize)
      all += sum_of(from + i, count - i < kRunSize ? count - i : kRunSize);
    return all;
  }

  bool sum_up() {
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      double all = 0;
      for_children(v, [&](const int32_t* child, int64_t count, bool is_run) {
        if (!is_run) {
          for (int64_t i = 0; i < count; ++i) all += of_place(child[i]);
          return;
        }
        all += sum_of_run(
            child[0] < tree.num_classes ? e + child[0] : sum + (child[0] - tree.num_classes),
            count);
      });
      sum[v] = static_cast<Real>(all);
      if (!(sum[v] >= kSmallest)) return false;
    }
    return true;
  }

  bool add_up_to_parents() {
    std::memset(rising, 0, tree.num_inner * sizeof(double));
    for (int64_t c = 0; c < tree.num_classes; ++c) rising[above(c)] += e[c];
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      sum[v] = static_cast<Real>(rising[v]);
      if (!(sum[v] >= kSmallest)) return false;
      if (v + 1 < tree.num_inner) rising[above(tree.num_classes + v)] += rising[v];
    }
    return true;
  }

  int64_t above(int64_t place) const { return tree.parent[place] - tree.num_classes; }

  // ---- indices ----

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
    const auto put_at = [&](int32_t place, double reached) {
      if (place < tree.num_classes)
        add_up(on_columns, place, reached);
      else
        q[place] += static_cast<Real>(problem.keep[place] * reached);
    };
    if (problem.log_similarity) {
      std::memset(alpha, 0, tree.num_inner * sizeof(Real));
      std::memset(q + tree.num_classes, 0, tree.num_inner * sizeof(Real));
      alpha[tree.num_inner - 1] = static_cast<Real>(on_every_class);
      for_targets([&](int64_t target, double weight) {
        put_soft_label(
            problem, target, weight * problem.share[target],
            [&](int64_t v, double delta) { alpha[v] += static_cast<Real>(delta); }, put_at);
      });
      spread_by_ring();
    } else {
      spread_out(static_cast<Real>(problem.spreads ? on_every_class : 0));
      for_targets([&](int64_t target, double weight) {
        double reached = weight * problem.share[target];
        const double cut = std::isfinite(reached) ? 0x1p-60 * std::fabs(reached) : 0;
        for (int32_t place = problem.target_place[target];
             place < tree.root() && !(std::fabs(reached) <= cut); place = tree.parent[place]) {
          put_at(place, reached);
          reached *= 1 - problem.keep[place];
        }
      });
    }
    // What a target puts on its own column, and what every class gets, may cancel.
    for (const auto& [column, reached] : on_columns) {
      const double of_any = problem.log_similarity ? alpha[above(column)] : on_every_class;
      const double as_any = problem.spreads ? of_any * problem.unit[column] : 0;
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

  void spread_by_ring() {
    const Real* const kept_unit = static_cast<const Real*>(problem.kept_unit);
    for (int64_t v = tree.num_inner - 2; v >= 0; --v)
      alpha[v] += alpha[above(tree.num_classes + v)];
    for (int64_t v = 0; v < tree.num_inner; ++v)
      q[tree.num_classes + v] += alpha[v] * kept_unit[tree.num_classes + v];
    for_columns_of(alpha, [&](int64_t c, auto count, auto ring) {
      store_first(q + c, load_first(kept_unit + c, count) * ring, count);
    });
  }

  // ---- probabilities ----

  void place_mass(hace::TreeLogLossFault* fault) {
    const Real* const mass = static_cast<const Real*>(problem.mass) + row * problem.mass_stride;
    double on_every_class = problem.row_spread;
    if (problem.spread)
      for (int64_t t = 0; t < problem.num_targets; ++t)
        on_every_class += static_cast<double>(mass[t]) * problem.spread[t];
    const int64_t first = problem.mass_is_by_column ? tree.num_classes : 0;
    std::memset(q + first, 0, (tree.num_places() - first) * sizeof(Real));
    if (problem.mass_is_by_column)
      for_vectors(tree.num_classes, [&](int64_t c, auto count) {
        store_first(q + c, load_first(mass + c, count) * narrowed(problem.share + c, count), count);
      });
    else
      for (int64_t t = 0; t < problem.num_targets; ++t) {
        const int32_t place = problem.target_place[t];
        if (place >= 0)
          q[place] += mass[t] * static_cast<Real>(problem.share[t]);
        else if (mass[t] != 0)
          *fault = {row, t};
      }
    rise(on_every_class);
  }

  // Takes the mass put on places in q, and leaves what they keep of all that reaches them.
  void rise(double on_every_class) {
    const Real* const kept_unit = static_cast<const Real*>(problem.kept_unit);
    const Real spread = static_cast<Real>(kept_unit ? on_every_class : 0);
    for_vectors(tree.num_classes, [&](int64_t c, auto count) {
      const Line reached = load_first(q + c, count);
      const auto [kept, handed_on] = shares(problem.keep + c, count);
      store_first(handed + c, reached * handed_on, count);
      Line here = reached * kept;
      if (spread != 0) here += load_first(kept_unit + c, count) * spread;
      store_first(q + c, here, count);
    });
    for (int64_t v = 0; v < tree.num_inner; ++v) rising[v] = q[tree.num_classes + v];
    if (!problem.in_runs)
      for (int64_t c = 0; c < tree.num_classes; ++c) rising[above(c)] += handed[c];
    for (int64_t v = 0; v + 1 < tree.num_inner; ++v) {
      if (problem.in_runs)
        for_children(v, [&](const int32_t* child, int64_t count, bool is_run) {
          if (!is_run) {
            for (int64_t i = 0; i < count && child[i] < tree.num_classes; ++i)
              rising[v] += handed[child[i]];
          } else if (child[0] < tree.num_classes) {
            rising[v] += sum_of_run(handed + child[0], count);
          }
        });
      const int64_t place = tree.num_classes + v;
      const double keep = problem.keep[place];
      q[place] = static_cast<Real>(rising[v] * keep);
      if (spread != 0) q[place] += kept_unit[place] * spread;
      rising[above(place)] += rising[v] * (1 - keep);
    }
    q[tree.root()] = 0;
  }

  // Numbers of the table in the type worked in.
  template <typename Count>
  static Line narrowed(const double* from, Count count) {
    return shares(from, count).first;
  }

  // The same, and what is left of 1.
  template <typename Count>
  static std::pair<Line, Line> shares(const double* from, Count count) {
    using Wide = Vector<double>;
    constexpr int kWide = Lanes<double>::kCount;
    double buffer[kLanes] = {};
    if (count < kLanes) {
      std::memcpy(buffer, from, count * sizeof(double));
      from = buffer;
    }
    if constexpr (sizeof(Real) == 8) {
      const Wide x = load(from);
      return {x, 1 - x};
    } else {
      typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
      const Wide low = load(from), high = load(from + kWide);
      const Half x[2] = {__builtin_convertvector(low, Half), __builtin_convertvector(high, Half)};
      const Half left[2] = {__builtin_convertvector(1 - low, Half),
                            __builtin_convertvector(1 - high, Half)};
      return {bit_cast<Line>(x), bit_cast<Line>(left)};
    }
  }

  // ---- passes ----

  // Calls step(first, count, of_parent) for all columns, in vectors: `of_inner` has a number for
  // each inner place, and of_parent is the columns' parents', as a vector or as the one that they
  // all have.
  template <typename Step>
  void for_columns_of(const Real* of_inner, Step step) const {
    if (!problem.in_runs) {
      for_vectors(tree.num_classes,
                  [&](int64_t c, auto count) { step(c, count, at_parents(of_inner, c, count)); });
      return;
    }
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      const Line of_parent = broadcast(of_inner[v]);
      for_children(v, [&](const int32_t* child, int64_t count, bool is_run) {
        if (!is_run)
          for (int64_t i = 0; i < count && child[i] < tree.num_classes; ++i)
            step(child[i], int64_t{1}, of_parent);
        else if (child[0] < tree.num_classes)
          for_vectors(count, [&](int64_t i, auto n) { step(child[0] + i, n, of_parent); });
      });
    }
  }

  template <typename Count>
  Line at_parents(const Real* of_inner, int64_t column, Count count) const {
    const int32_t* const parent = tree.parent + column;
#if defined(__AVX512F__)
    if constexpr (sizeof(Real) == 4 && !std::is_same_v<Count, int64_t>)
      return bit_cast<Line>(_mm512_i32gather_ps(bit_cast<__m512i>(load_indices<Real>(parent)),
                                                of_inner - tree.num_classes, 4));
#elif defined(__AVX2__)
    if constexpr (sizeof(Real) == 4 && !std::is_same_v<Count, int64_t>)
      return bit_cast<Line>(_mm256_i32gather_ps(of_inner - tree.num_classes,
                                                bit_cast<__m256i>(load_indices<Real>(parent)), 4));
#endif
    Line values = {};
    for (int64_t i = 0; i < count; ++i) values[i] = of_inner[parent[i] - tree.num_classes];
    return values;
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

  // For all inner places but the root; leaves q / S in the place of S.
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
    Real* const pulled = sum;  // sum of q / S from here to the root
    pulled[tree.num_inner - 1] = 0;
    for (int64_t v = tree.num_inner - 2; v >= 0; --v)
      pulled[v] += pulled[above(tree.num_classes + v)];
    for (int64_t v = 0; v < tree.num_inner; ++v)
      pulled[v] = static_cast<Real>(factor * (of_total - pulled[v]));
    const Real of_mass = static_cast<Real>(factor);
    for_columns_of(pulled, [&](int64_t c, auto count, Line of_exp) {
      const Line value = load_first(e + c, count) * of_exp - load_first(q + c, count) * of_mass;
      store_first(grad + c, value, count);
    });
  }
};

}  // namespace
