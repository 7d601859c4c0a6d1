// Sweeps over a tree, as many rows at a time as a vector has lanes. docs/design.md explains the
// terms.
//
// Every place of the tree (see TreeTable) has a *line*: one vector with one lane per row. So every
// step of a sweep is a vector operation, whatever the tree's shape, and columns in any order cost
// the same. Inner places are numbered with children before their parents: an upward sweep goes
// through them in order, a downward sweep in reverse.
//
// The lines of 16 float32 rows take 64 bytes per place. Those of 10,000 places stay in a 1 MiB L2
// cache between the sweeps, those of 100,000 places in the L3.
#pragma once

#include <limits>

#include "exp.h"
#include "log.h"
#include "transpose.h"
#include "tree.h"

namespace {

using hace::Tree;

// How many terms are added up in the working type before their sum is added to a wider one, so that
// nodes with many children lose no digits.
constexpr int64_t kRun = 32;

// A sum in float64.
template <typename Real>
struct WideSum {
  Vector<double> low = {}, high = {};

  void add(Vector<float> x) {
    typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
    Half halves[2];
    std::memcpy(halves, &x, sizeof(x));
    low += __builtin_convertvector(halves[0], Vector<double>);
    high += __builtin_convertvector(halves[1], Vector<double>);
  }
  void add(Vector<double> x) { low += x; }

  double lane(int i) const {
    constexpr int kHalf = Lanes<double>::kCount;
    return i < kHalf ? low[i] : high[i - kHalf];
  }

  Vector<Real> narrow() const {
    if constexpr (sizeof(Real) == 8) {
      return low;
    } else {
      return narrowed(low, high);
    }
  }
};

// Does nothing at the places that the sweep passes.
template <typename Real>
struct NoMass {
  void begin(int64_t) {}
  void column(int32_t, Vector<Real>) {}
  void inner(int32_t) {}
  void end_run() {}
  void end(int64_t, Vector<Real>, Vector<Real>) {}
};

// exp(x - top), where `difference` is x - top rounded: of a difference of 40 the rounding alone
// would be 2e-6 of the exponential. What it left out is found exactly (Knuth's two-sum).
template <typename Line>
inline Line exp_of_difference(Line x, Line top, Line difference) {
  const Line of_top = difference - x;
  const Line rounding = (x - (difference - of_top)) - (top + of_top);
  const Line e = exp_nonpositive(difference);
  return e == 0 ? e : e * (1 + rounding);
}

// Log-sum-exp at every inner place v, as exp(top_v) * sum_v with top_v the largest logit below:
//
//   top_v = max_c top_c      sum_v = sum_c share_c      share_c = exp(top_c - top_v) sum_c
//
// over the children c, where a column has its logit as its top and the sum 1. Every place has a
// maximum of its own, so that sums of any size keep all their digits, at one exponential per place.
//
// Reads the logits in the columns' lines, and writes top to the inner places' lines and, with
// kShares, share to all lines but the root's. `mass` is called at every place visited. With kExact,
// exponentials do not have the rounding of their differences: sums of log P hardly notice it, but
// probabilities are off by it.
template <bool kShares, typename Real, bool kExact = false, typename Mass>
inline void sum_exponentials(const Tree& tree, Vector<Real>* line, Vector<Real>* sum, Mass& mass) {
  constexpr Real kLowest = std::numeric_limits<Real>::lowest();
  const int64_t num_classes = tree.num_classes;
  const auto exp_below = [](Vector<Real> x, Vector<Real> top) {
    if constexpr (kExact) return exp_of_difference(x, top, x - top);
    return exp_nonpositive(x - top);
  };
  for (int64_t v = 0; v < tree.num_inner; ++v) {
    const int32_t* child = tree.child + tree.child_ptr[v];
    const int32_t* const end = tree.child + tree.child_ptr[v + 1];
    // A finite number, so that exponentials of -inf are 0, and a NaN shows in the sum.
    Vector<Real> top = broadcast(kLowest);
    for (const int32_t* c = child; c < end; ++c) top = max(line[*c], top);

    mass.begin(v);
    WideSum<Real> wide;
    Vector<Real> narrow = {};
    const bool one_run = end - child <= kRun;
    while (child < end) {
      const int32_t* const run_end = end - child < kRun ? end : child + kRun;
      narrow = Vector<Real>{};
      for (; child < run_end && *child < num_classes; ++child) {
        const Vector<Real> logit = line[*child];
        const Vector<Real> share = exp_below(logit, top);
        if constexpr (kShares) line[*child] = share;
        narrow += share;
        mass.column(*child, logit);
      }
      for (; child < run_end; ++child) {
        const Vector<Real> share = exp_below(line[*child], top) * sum[*child - num_classes];
        if constexpr (kShares) line[*child] = share;
        narrow += share;
        mass.inner(*child);
      }
      if (!one_run) wide.add(narrow);
      mass.end_run();
    }
    line[num_classes + v] = top;
    sum[v] = one_run ? narrow : wide.narrow();
    mass.end(v, top, sum[v]);
  }
}

// line_v = sum_c line_c over the children, for every inner place.
template <typename Real>
inline void sum_up(const Tree& tree, Vector<Real>* line) {
  for (int64_t v = 0; v < tree.num_inner; ++v) {
    const int32_t* child = tree.child + tree.child_ptr[v];
    const int32_t* const end = tree.child + tree.child_ptr[v + 1];
    WideSum<Real> wide;
    Vector<Real> narrow = {};
    const bool one_run = end - child <= kRun;
    while (child < end) {
      const int32_t* const run_end = end - child < kRun ? end : child + kRun;
      narrow = Vector<Real>{};
      for (; child < run_end; ++child) narrow += line[*child];
      if (!one_run) wide.add(narrow);
    }
    line[tree.num_classes + v] = one_run ? narrow : wide.narrow();
  }
}

// line_c += line_v for every child c of every inner place v.
template <typename Real>
inline void sum_down(const Tree& tree, Vector<Real>* line) {
  for (int64_t v = tree.num_inner - 1; v >= 0; --v) {
    const Vector<Real> above = line[tree.num_classes + v];
    for (int32_t i = tree.child_ptr[v]; i < tree.child_ptr[v + 1]; ++i)
      line[tree.child[i]] += above;
  }
}

// The gradient of the loss of the masses q_v, with W = sum_v q_v:
//
//   d/dz_j sum_v q_v (-log P_v) = W p_j - sum_{v above j} q_v exp(z_j - lse_v)
//
// At a place u, pull_u = W P_u - sum_{v above u} q_v exp(lse_u - lse_v). It follows from the
// parent's alone: pull_u = (share_u / sum_parent) pull_parent - q_u, with pull_root = W. The pull
// of a column is the gradient of its logit.
//
// Where all columns below v are -inf there are no shares: pull_v is divided among them evenly.
//
// Reads the shares, `sum` and q (of_column(c, v) for columns, `mass` for inner places), and writes
// pull to `line`.
template <typename Real, typename OfColumn>
inline void pull_down(const Tree& tree, Vector<Real>* line, const Vector<Real>* sum,
                      const Vector<Real>* mass, Vector<Real> total, OfColumn of_column) {
  const int64_t num_classes = tree.num_classes;
  line[tree.root()] = total;
  for (int64_t v = tree.num_inner - 1; v >= 0; --v) {
    const Vector<Real> pull = line[num_classes + v];
    const Vector<Real> scale = pull / sum[v];
    const int32_t* const begin = tree.child + tree.child_ptr[v];
    const int32_t* const end = tree.child + tree.child_ptr[v + 1];
    const int32_t* child = begin;
    for (; child < end && *child < num_classes; ++child)
      line[*child] = line[*child] * scale - of_column(*child, v);
    for (; child < end; ++child) line[*child] = line[*child] * scale - mass[*child];

    const auto dead = sum[v] == 0;
    if (__builtin_expect(any(dead), 0) && v != tree.num_inner - 1) {
      for (child = begin; child < end; ++child) {
        const Real part = Real(tree.num_columns[*child]) / Real(tree.num_columns[num_classes + v]);
        const Vector<Real> q = *child < num_classes ? of_column(*child, v) : mass[*child];
        line[*child] = dead ? pull * part - q : line[*child];
      }
    }
  }
}

// Reads nodes' values (B, N) into the lines of their places, of which mixed nodes have the last;
// places of no node are 0.
template <typename Stored>
inline void load_nodes(const Tree& tree, int64_t num_mixed, const LaneRows<Stored>& rows,
                       Vector<work_t<Stored>>* line) {
  const int64_t num_places = tree.num_places() + num_mixed;
  for (int64_t p = 0; p < num_places; ++p) line[p] = Vector<work_t<Stored>>{};
  load_columns(rows, tree.num_nodes, [&](int64_t node, Vector<work_t<Stored>> values) {
    if (tree.place[node] >= 0) line[tree.place[node]] = values;
  });
}

}  // namespace
