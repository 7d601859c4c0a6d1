// Rows of a table that lists every ring's columns in words: a word is 16 neighbouring columns with
// a mask of those in the ring. A ring's sum and its gradient then take a few masked vectors,
// wherever its columns lie in the row: nothing is gathered, and no positions are compared.
//
// All exponentials are relative to their row's maximum. Rows in which a ring is too small for that
// are left to the caller.
#pragma once

#include <cstdint>
#include <limits>

#include "exp.h"
#include "log.h"
#include "path_plan.h"
#include "row_loops.h"
#include "vec.h"

namespace {

using hace::kWordColumns;
using hace::kWordsAtOnce;

template <typename Stored>
struct RowByWords {
  using Real = work_t<Stored>;
  static constexpr int kLanes = Lanes<Real>::kCount;
  static constexpr int kParts = kWordColumns / kLanes;
  static constexpr int64_t kRunWords = 1024;  // words per sum; these sums are added up in float64

  const hace::PathLogLossProblem& problem;
  const int64_t row;
  const int64_t first;
  const int64_t num_intervals;
  const int32_t* const ring;  // the rings of the path, innermost first
  const uint32_t last_word;   // the row's last word, with all of its columns
  Real* const values;         // by column: its exponential
  // By ring, with padding, so that whole vectors can be loaded.
  double* const mass;
  double* const inside;   // with every ring inside it
  double* const inverse;  // of `inside`
  double* const a;        // A_r of path_log_loss_kernel.cpp; with one entry beyond the last ring
  double* const kept;     // the share of the ring's interval in the one around it
  double* const lost;     // 1 - kept
  double* const factor;

  RowByWords(const hace::PathLogLossProblem& problem, int64_t row,
             const hace::PathLogLossWorkspace& workspace)
      : RowByWords(problem, row, problem.target[row], workspace) {}

  // Computes the row; false if it is left to the caller.
  bool run(Real smallest_sum) {
    const Stored* const x = static_cast<const Stored*>(problem.logits) + row * problem.row_stride;
    Stored* g = nullptr;
    if (problem.grad) g = static_cast<Stored*>(problem.grad) + row * problem.columns;
    fetch_lists();
    const Real top = max_of<Real>(x, problem.columns);
    exp_of(x, problem.columns, top, values,
           {reinterpret_cast<const char*>(x + problem.row_stride), reinterpret_cast<char*>(g)});
    for (int64_t r = 0; r <= num_intervals; ++r) {
      const List list = list_of(r);
      mass[r] = sum_of(list);
      if (!(mass[r] >= smallest_sum) && list.size > 0) return false;
    }
    resolve();
    if (g) write(g);
    return true;
  }

 private:
  struct List {
    const uint32_t* words;
    int64_t size;
  };

  RowByWords(const hace::PathLogLossProblem& problem, int64_t row, int64_t target,
             const hace::PathLogLossWorkspace& workspace)
      : problem(problem),
        row(row),
        first(problem.ptr[target]),
        num_intervals(problem.ptr[target + 1] - first),
        ring(problem.rings.ring + first + target),
        last_word(hace::last_word(problem.columns)),
        values(static_cast<Real*>(workspace.values)),
        mass(static_cast<double*>(workspace.plan)),
        inside(mass + stride()),
        inverse(inside + stride()),
        a(inverse + stride()),
        kept(a + stride()),
        lost(kept + stride()),
        factor(lost + stride()) {}

  int64_t stride() const { return hace::ring_stride(num_intervals); }

  List list_of(int64_t r) const {
    const int32_t* const ends = problem.rings.ptr + ring[r];
    return {problem.rings.words + ends[0], ends[1] - ends[0]};
  }

  // The lists of all paths together do not stay in the L2 cache, and a ring's is too short to be
  // foreseen by the processor.
  void fetch_lists() const {
    for (int64_t r = 0; r <= num_intervals; ++r) {
      const List list = list_of(r);
      for (int64_t i = 0; i < list.size; i += 16) __builtin_prefetch(list.words + i, 0, 2);
    }
  }

  static int64_t begin_of(uint32_t word) { return (word >> 16) * kWordColumns; }

  // Calls each(first column, mask of the columns from there on) for the vectors of a word.
  template <typename Each>
  static void for_parts(uint32_t word, Each each) {
    for (int part = 0; part < kParts; ++part)
      each(begin_of(word) + part * kLanes, (word & 0xffff) >> (part * kLanes));
  }

  double sum_of(List list) const {
    double sum = 0;
    for (int64_t done = 0; done < list.size; done += kRunWords) {
      const int64_t left = list.size - done;
      sum += sum_of_run({list.words + done, left < kRunWords ? left : kRunWords});
    }
    return sum;
  }

  // The sum over some words; NaN if one of them is beyond the row.
  Real sum_of_run(List list) const {
    Vector<Real> sums[kWordsAtOnce] = {};
    const Real* const values = this->values;
    for (int64_t i = 0; i < list.size; i += kWordsAtOnce) {
      for (int k = 0; k < kWordsAtOnce; ++k)
        if (list.words[i + k] > last_word) return std::numeric_limits<Real>::quiet_NaN();
      for (int k = 0; k < kWordsAtOnce; ++k)
        for_parts(list.words[i + k], [&](int64_t column, uint32_t lanes) {
          sums[k] += chosen_lanes<Real>(lanes, load(values + column), Vector<Real>{});
        });
    }
    return horizontal_sum<Real>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }

  // The same as in path_rings.cpp, for as many rings at a time as a vector has lanes.
  void resolve() {
    constexpr int kWide = Lanes<double>::kCount;
    const double* const weight = problem.weight + first;
    double total = mass[0], sum_of_weights = 0;
    for (int64_t r = 0; r < num_intervals; ++r) {
      inside[r] = total;
      total += mass[r + 1];
      a[r] = sum_of_weights;
      sum_of_weights += weight[r];
    }
    a[num_intervals] = sum_of_weights;
    store(inside + num_intervals, broadcast(total));
    store(mass + num_intervals + 1, Vector<double>{});
    store(a + num_intervals + 1, Vector<double>{});

    Vector<double> losses = {};
    for (int64_t r = 0; r < num_intervals; r += kWide) {
      const Vector<double> of_inside = 1 / load(inside + r);
      const Vector<double> added = load(mass + r + 1) * of_inside;
      const Vector<double> u = 1 + added;
      const Vector<double> of_u = 1 / u;
      // log(1 + added), corrected for the rounding of 1 + added to u.
      losses += load(a + r + 1) * (log_of<double>(u) + (added - (u - 1)) * of_u);
      store(inverse + r, of_inside);
      store(kept + r, of_u);
      store(lost + r, added * of_u);
    }
    problem.loss[row] = horizontal_sum<double>(losses);

    const double of_row = problem.factor[row], of_total = of_row / total;
    double b = 0, outside = 0;  // outside: 1 - P_r
    factor[num_intervals] = sum_of_weights * of_total;
    for (int64_t r = num_intervals - 1; r >= 0; --r) {
      outside = lost[r] + kept[r] * outside;
      b = weight[r] * outside + kept[r] * b;
      factor[r] = a[r] * of_total - b * inverse[r] * of_row;
    }
  }

  void write(Stored* g) {
    Real* const values = this->values;
    for (int64_t r = 0; r <= num_intervals; ++r) {
      const Real scale = static_cast<Real>(factor[r]);
      const List list = list_of(r);
      for (int64_t i = 0; i < list.size; i += kWordsAtOnce)
        for (int k = 0; k < kWordsAtOnce; ++k)
          for_parts(list.words[i + k], [&](int64_t column, uint32_t lanes) {
            const Vector<Real> value = load(values + column);
            if constexpr (kStoresLanes)
              store_lanes(g + column, lanes, value * scale);
            else
              store(values + column, chosen_lanes<Real>(lanes, value * scale, value));
          });
    }
    if constexpr (!kStoresLanes) scale<Real>(Kept<Real>{values}, problem.columns, 1, 0, g, false);
  }
};

}  // namespace
