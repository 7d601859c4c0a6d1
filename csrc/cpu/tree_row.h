// `tree_log_loss` of a single row: the lanes of a vector are neighbouring places. (In
// tree_log_loss_kernel.cpp each lane is a row, and all but one would be idle.)
//
// With e_j = exp(z_j - max) and S_v their sum below v,
//
//   L       = W log S_root - sum_v q_v log S_v
//   dL/dz_j = e_j (W / S_root - sum_{v above j} q_v / S_v) - q_j
//
// where log P of a column itself is z_j - max - log S_root. The whole row has one maximum. If some
// S_v with mass is too small for that, the row is left to the block kernel.
//
// Columns are visited in their own order, whatever it is: exponentials are added to their parents'
// sums, and get their factors from their parents. So only the parents are read of the tree, and
// those of columns are checked as they are read.
//
// Memory traffic in float32: the logits are read twice. The gradient is written as exponentials,
// read, and written again. Parents (4 bytes per column) are read twice, and so is kept_unit (4) if
// something is put on every class. Probabilities cost 12 bytes per column, and mass twice 4.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "log.h"
#include "of_parents.h"
#include "row_loops.h"
#include "soft_label.h"
#include "sums_by_parent.h"
#include "tree_log_loss_kernel.h"
#include "tree_sweeps.h"

namespace {

// The mass that columns keep.
enum class ColumnMass {
  kNone,    // none, except on the targets' own columns
  kAlike,   // alpha kept_unit
  kByRing,  // alpha kept_unit, where alpha is that of the parent
  kOwn,     // probabilities: each column has its own
};

template <typename Stored>
struct TreeRow {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  using Links = ParentLinks<Real>;
  using Parents = Integers<Real>;
  static constexpr int kLanes = Lanes<Real>::kCount;
  static constexpr Real kSmallest = sizeof(Real) == 4 ? Real(0x1p-64) : Real(0x1p-900);

  // A target's own column, what it keeps, and its gradient.
  struct OwnColumn {
    int32_t column;
    double reached;
    Real kept;
    Real grad;
  };

  const hace::TreeLogLossProblem& problem;
  const Tree& tree;
  const int64_t row;
  const Stored* const logits;
  const Real* const kept_unit;
  Real* const e;           // by column
  Real* const sum;         // by inner place: S, then sum of q / S at and above it
  Real* const q;           // by inner place: what is put there, then what is kept
  Real* const alpha;       // by inner place, with soft labels: what every class in its ring has
  double* const rising;    // by inner place: sums of exponentials
  double* const handed;    // by inner place, of probabilities: the mass that reaches it
  Real* const on_columns;  // by column, of probabilities: what is put there
  std::vector<OwnColumn>& own_columns;
  Real top = 0;
  double on_every_class = 0;

  // Whether rows with this kind of target can go one by one.
  static bool takes(const hace::TreeLogLossProblem& problem) { return problem.eps == 0; }

  // The size of arrays by inner place, of which vectors may be read beyond the last place.
  static constexpr int64_t padded(int64_t size) { return (size + 63) / 64 * 64 + 64; }

  static int64_t num_bytes(const hace::TreeLogLossProblem& problem) {
    const int64_t columns = padded(problem.tree.num_classes) * sizeof(Real);
    const int64_t inner = padded(problem.tree.num_inner);
    return 2 * columns + inner * (3 * sizeof(Real) + 2 * sizeof(double));
  }

  TreeRow(const hace::TreeLogLossProblem& problem, int64_t row, void* values,
          std::vector<OwnColumn>& own_columns)
      : problem(problem),
        tree(problem.tree),
        row(row),
        logits(static_cast<const Stored*>(problem.logits) + row * problem.row_stride),
        kept_unit(problem.spreads ? static_cast<const Real*>(problem.kept_unit) : nullptr),
        e(exponentials(values)),
        sum(static_cast<Real*>(values) + padded(tree.num_classes)),
        q(sum + padded(tree.num_inner)),
        alpha(q + padded(tree.num_inner)),
        rising(reinterpret_cast<double*>(alpha + padded(tree.num_inner))),
        handed(rising + padded(tree.num_inner)),
        on_columns(reinterpret_cast<Real*>(handed + padded(tree.num_inner))),
        own_columns(own_columns) {}

  static bool run(const hace::TreeLogLossProblem& problem, int64_t row, void* values,
                  hace::TreeLogLossFault* fault) {
    thread_local std::vector<OwnColumn> own_columns;
    own_columns.clear();
    return TreeRow(problem, row, values, own_columns).run(fault);
  }

  // Works on the row. False if its masses are too far apart; then its loss has not been written.
  bool run(hace::TreeLogLossFault* fault) {
    top = max_of<Real>(logits, tree.num_classes);
    if (!(top > -std::numeric_limits<Real>::infinity())) return false;
    std::memset(q, 0, tree.num_inner * sizeof(Real));
    std::memset(rising, 0, tree.num_inner * sizeof(double));
    if (problem.mass) {
      place_mass(fault);
      return run<ColumnMass::kOwn>(fault);
    }
    if (!place_indices()) return is_no_tree(fault);
    if (problem.log_similarity) return run<ColumnMass::kByRing>(fault);
    return problem.spreads ? run<ColumnMass::kAlike>(fault) : run<ColumnMass::kNone>(fault);
  }

 private:
  template <ColumnMass kMass>
  bool run(hace::TreeLogLossFault* fault) {
    double total = 0, loss = 0;
    if (!pass_columns<kMass>(total, loss)) return is_no_tree(fault);
    if constexpr (kMass == ColumnMass::kNone) add_own_columns(total, loss);
    sum_up<kMass == ColumnMass::kOwn>();
    if (!add_inner<kMass>(total, loss)) return false;
    const double all = rising[tree.num_inner - 1];
    problem.loss[row] = total * std::log(all) - loss;
    if (problem.grad) write<kMass>(total / all);
    return true;
  }

  bool is_no_tree(hace::TreeLogLossFault* fault) const {
    fault->row = row;
    fault->is_of_tree = true;
    return true;
  }

  // Where the exponentials are kept: in the gradient if it is of their type, which then has to be
  // written only once more.
  Real* exponentials(void* values) const {
    if constexpr (std::is_same_v<Stored, Real>)
      if (problem.grad) return static_cast<Real*>(problem.grad) + row * tree.num_classes;
    return static_cast<Real*>(values);
  }

  int64_t above(int64_t place) const { return tree.parent[place] - tree.num_classes; }

  // ---- indices ----

  // Puts the mass of indices on places. False if a target's path leads out of the tree.
  bool place_indices() {
    on_every_class = problem.row_spread;
    bool sound = true;
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
      const int64_t place = problem.target_place[target];
      if (place < tree.num_classes)
        sound = sound && above(place) >= 0 && above(place) < tree.num_inner;
    });
    if (!sound) return false;
    const auto put_at = [&](int32_t place, double reached) {
      if (place < tree.num_classes)
        put_on_column(place, reached);
      else
        q[place - tree.num_classes] += static_cast<Real>(problem.keep[place] * reached);
    };
    if (problem.log_similarity) {
      std::memset(alpha, 0, tree.num_inner * sizeof(Real));
      alpha[tree.num_inner - 1] = static_cast<Real>(on_every_class);
      for_targets([&](int64_t target, double weight) {
        put_soft_label(
            problem, target, weight * problem.share[target],
            [&](int64_t v, double delta) { alpha[v] += static_cast<Real>(delta); }, put_at);
      });
      add_down(tree, alpha);
    } else {
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
    for (OwnColumn& own : own_columns) {
      const double of_any = problem.log_similarity ? alpha[above(own.column)] : on_every_class;
      const double as_any = problem.spreads ? of_any * problem.unit[own.column] : 0;
      own.kept = static_cast<Real>(problem.keep[own.column] * (as_any + own.reached));
    }
    std::sort(own_columns.begin(), own_columns.end(),
              [](const OwnColumn& a, const OwnColumn& b) { return a.column < b.column; });
    return true;
  }

  void put_on_column(int32_t column, double reached) {
    for (OwnColumn& own : own_columns)
      if (own.column == column) {
        own.reached += reached;
        return;
      }
    own_columns.push_back({column, reached, 0, 0});
  }

  void add_own_columns(double& total, double& loss) const {
    for (const OwnColumn& own : own_columns) {
      total += own.kept;
      const Real logit = load_first(logits + own.column, 1)[0];
      if (own.kept != 0) loss += static_cast<double>(own.kept) * (logit - top);
    }
  }

  // ---- probabilities ----

  const Real* mass() const {
    return static_cast<const Real*>(problem.mass) + row * problem.mass_stride;
  }

  // Puts the mass of probabilities on inner places, in `handed`, and on columns, in on_columns; not
  // on columns if they are the targets.
  void place_mass(hace::TreeLogLossFault* fault) {
    const Real* const mass = this->mass();
    on_every_class = problem.row_spread;
    if (problem.spread)
      for (int64_t t = 0; t < problem.num_targets; ++t)
        on_every_class += static_cast<double>(mass[t]) * problem.spread[t];
    std::memset(handed, 0, tree.num_inner * sizeof(double));
    if (problem.mass_is_by_column) return;
    std::memset(on_columns, 0, tree.num_classes * sizeof(Real));
    for (int64_t t = 0; t < problem.num_targets; ++t) {
      const int32_t place = problem.target_place[t];
      if (place >= tree.num_classes)
        handed[place - tree.num_classes] += mass[t] * problem.share[t];
      else if (place >= 0)
        on_columns[place] += mass[t] * static_cast<Real>(problem.share[t]);
      else if (mass[t] != 0)
        *fault = {row, t};
    }
  }

  // An array by column, which may have a single number for all columns, or none, which is 0.
  struct ByColumn {
    const Real* each = nullptr;
    Line all = {};

    template <typename Count>
    Line at(int64_t c, Count count) const {
      return each ? load_first(each + c, count) : first_lanes<Real>(all, count, 0);
    }
  };
  ByColumn by_column(const void* numbers) const {
    const Real* const of_columns = static_cast<const Real*>(numbers);
    if (!of_columns) return {};
    if (problem.columns_are_alike) return {nullptr, broadcast(of_columns[0])};
    return {of_columns, Line{}};
  }

  // What columns keep of the targets' mass, and what they hand to their parents, where the table
  // has these shares; `mass` is null where it does not.
  struct SharedMass {
    const Real* mass = nullptr;
    ByColumn kept, handed;
  };
  SharedMass shared_mass() const {
    if (sizeof(Real) != 4 || !problem.mass_is_by_column || !problem.kept_of_column) return {};
    return {mass(), by_column(problem.kept_of_column), by_column(problem.handed_of_column)};
  }

  // The same in all cases.
  template <typename Count>
  std::pair<Line, Line> split_mass(int64_t c, Count count) const {
    Line reached;
    if (problem.mass_is_by_column) {
      reached = load_first(mass() + c, count);
      reached *= shares(problem.share + c, count).first;
    } else {
      reached = load_first(on_columns + c, count);
    }
    const auto [kept, handed] = shares(problem.keep + c, count);
    return {reached * kept, reached * handed};
  }

  // Numbers of the table in the working type, and 1 minus these.
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
      const Wide low = load(from), high = load(from + kWide);
      return {narrowed(low, high), narrowed(1 - low, 1 - high)};
    }
  }

  // ---- passes ----

  // Calls step(first, count) for all columns, in whole vectors as far as possible.
  template <typename Step>
  static void for_vectors(int64_t size, Step step) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) step(i, std::integral_constant<int64_t, kLanes>{});
    if (i < size) step(i, size - i);
  }

  // Adds what terms(first, count) gives to total and loss; every kRun vectors this is in float64.
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

  // Computes the exponentials and adds them to their parents' sums, and the mass that columns hand
  // on to their parents' mass; adds the columns' part of the loss. False if the parents are not
  // those of a tree.
  template <ColumnMass kMass>
  bool pass_columns(double& total, double& loss) {
    constexpr bool kRises = kMass == ColumnMass::kOwn;
    double* const sums[] = {rising, handed};
    constexpr int kSums = kRises ? 2 : 1;
    SumsByParent<Real, kSums> by_parent(sums);
    const Unsigned<Real> num_inner = Unsigned<Real>{} + static_cast<Index<Real>>(tree.num_inner);
    const Line spread = broadcast(static_cast<Real>(on_every_class));
    // In registers; members would be read again after every store, which might have changed them.
    const Stored* const logits = this->logits;
    const Real top = this->top;
    Real* const e = this->e;
    const auto columns = Links::of_columns(tree);
    const ByColumn unit = by_column(kept_unit);
    const SharedMass shared = shared_mass();
    auto own = own_columns.begin();
    bool sound = true;
    add_terms(tree.num_classes, total, loss,
              [&](int64_t c, auto count, Line& run_total, Line& run_loss) {
                const Parents parents = columns.at(c, count);
                if (__builtin_expect(any(bit_cast<Unsigned<Real>>(parents) >= num_inner), 0)) {
                  sound = false;
                  return;
                }
                const Line gap = load_first(logits + c, count) - top;
                Line values[kSums];
                values[0] = first_lanes<Real>(exp_nonpositive(gap), count, 0);
                store_first(e + c, values[0], count);
                Line kept = {};
                if constexpr (kMass == ColumnMass::kAlike) kept = unit.at(c, count) * spread;
                if constexpr (kMass == ColumnMass::kByRing)
                  kept = unit.at(c, count) * of_parents<Real>(alpha, parents);
                if constexpr (kRises) {
                  if (shared.mass) {
                    const Line reached = load_first(shared.mass + c, count);
                    kept = reached * shared.kept.at(c, count);
                    values[1] = reached * shared.handed.at(c, count);
                  } else {
                    std::tie(kept, values[1]) = split_mass(c, count);
                  }
                  kept += unit.at(c, count) * spread;
                }
                by_parent.add(parents, values);
                if constexpr (kMass != ColumnMass::kNone) {
                  for (; own != own_columns.end() && own->column < c + kLanes; ++own)
                    kept[own->column - c] = own->kept;
                  run_total += kept;
                  run_loss += kept == 0 ? Line{} : kept * gap;
                }
              });
    by_parent.end();
    return sound;
  }

  // Adds the sums of all inner places to those of their parents. Children come before parents.
  template <bool kRises>
  void sum_up() {
    double* const sums[] = {rising, handed};
    constexpr int kSums = kRises ? 2 : 1;
    SumsByParent<Real, kSums> by_parent(sums);
    for_vectors(tree.num_inner - 1, [&](int64_t v, auto count) {
      by_parent.end_runs_below(v + kLanes);
      const Parents parents = Links::of_inner(tree).at(v, count);
      if (any(parents < static_cast<typename Links::Parent>(v + kLanes))) {
        for (int64_t u = v; u < v + count; ++u) {
          const int64_t parent = above(tree.num_classes + u);
          sum[u] = static_cast<Real>(rising[u]);
          rising[parent] += rising[u];
          if constexpr (kRises)
            handed[parent] += handed[u] * (1 - problem.keep[tree.num_classes + u]);
        }
        return;
      }
      Line values[kSums];
      values[0] = first_lanes<Real>(shares(rising + v, count).first, count, 0);
      store_first(sum + v, values[0], count);
      if constexpr (kRises)
        values[1] = shares(handed + v, count).first *
                    shares(problem.keep + tree.num_classes + v, count).second;
      by_parent.add(parents, values);
    });
    by_parent.end();
  }

  // Adds the loss of all inner places but the root, and replaces S by q / S. False if a sum is too
  // small.
  template <ColumnMass kMass>
  bool add_inner(double& total, double& loss) {
    const int64_t num_classes = tree.num_classes;
    bool sound = rising[tree.num_inner - 1] >= kSmallest;
    add_terms(tree.num_inner - 1, total, loss, [&](int64_t v, auto count, Line& t, Line& l) {
      Line kept;
      if constexpr (kMass == ColumnMass::kOwn)
        kept =
            shares(handed + v, count).first * shares(problem.keep + num_classes + v, count).first;
      else
        kept = load_first(q + v, count);
      if (kMass != ColumnMass::kNone && kept_unit) {
        const Line spread = kMass == ColumnMass::kByRing
                                ? load_first(alpha + v, count)
                                : broadcast(static_cast<Real>(on_every_class));
        kept += load_first(kept_unit + num_classes + v, count) * spread;
      }
      if (kMass == ColumnMass::kNone && !any(kept != 0)) {
        store_first(sum + v, Line{}, count);
        return;
      }
      const Line below = first_lanes<Real>(load_first(sum + v, count), count, 1);
      sound = sound && !any((kept != 0) & ~(below >= kSmallest));
      t += kept;
      l += kept == 0 ? Line{} : kept * log_of<Real>(below);
      store_first(sum + v, kept == 0 ? Line{} : kept / below, count);
    });
    return sound;
  }

  template <ColumnMass kMass>
  void write(double of_total) {
    Stored* const grad = static_cast<Stored*>(problem.grad) + row * tree.num_classes;
    Real* const pulled = sum;  // sum of q / S from here to the root, then the exponentials' factor
    pulled[tree.num_inner - 1] = 0;
    add_down(tree, pulled);
    const double factor = problem.factor[row];
    for (int64_t v = 0; v < tree.num_inner; ++v)
      pulled[v] = static_cast<Real>(factor * (of_total - pulled[v]));
    const Real of_mass = static_cast<Real>(factor);
    const Line spread = broadcast(static_cast<Real>(on_every_class) * of_mass);
    for (OwnColumn& own : own_columns)
      own.grad = e[own.column] * pulled[above(own.column)] - own.kept * of_mass;
    const Real* const e = this->e;
    const auto columns = Links::of_columns(tree);
    const ByColumn unit = by_column(kept_unit);
    const SharedMass shared = shared_mass();
    for_vectors(tree.num_classes, [&](int64_t c, auto count) {
      const Parents parents = columns.at(c, count);
      Line value = load_first(e + c, count) * of_parents<Real>(pulled, parents);
      if constexpr (kMass == ColumnMass::kAlike) value -= unit.at(c, count) * spread;
      if constexpr (kMass == ColumnMass::kByRing)
        value -= unit.at(c, count) * of_parents<Real>(alpha, parents) * of_mass;
      if constexpr (kMass == ColumnMass::kOwn) {
        const Line kept = shared.mass
                              ? load_first(shared.mass + c, count) * shared.kept.at(c, count)
                              : split_mass(c, count).first;
        value -= kept * of_mass;
        value -= unit.at(c, count) * spread;
      }
      store_first(grad + c, value, count);
    });
    for (const OwnColumn& own : own_columns) store_first(grad + own.column, broadcast(own.grad), 1);
  }
};

}  // namespace
