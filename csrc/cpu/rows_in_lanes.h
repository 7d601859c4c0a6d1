// Short rows, as many at a time as a vector has lanes. Every step is a vector operation, from the
// first column to the loss, and no plan of pieces is needed, which would cost more than the
// elements of a short row. Columns may be in any order, as in row_by_position.h.
//
// All exponentials are relative to their row's maximum. Rows in which a ring is too small for that
// are left to the caller.
#pragma once

#include <cstdint>

#include "exp.h"
#include "log.h"
#include "path_plan.h"
#include "row_by_position.h"
#include "transpose.h"
#include "tree_sweeps.h"

namespace {

// One float64 number per lane of a vector of Real.
template <typename Real>
struct WideLanes {
  static constexpr int kParts = sizeof(double) / sizeof(Real);
  static constexpr int kPerPart = Lanes<double>::kCount;

  Vector<double> part[kParts] = {};

  WideLanes() = default;
  explicit WideLanes(const WideSum<Real>& sum) {
    part[0] = sum.low;
    if constexpr (kParts == 2) part[1] = sum.high;
  }
  void set(int lane, double value) { part[lane / kPerPart][lane % kPerPart] = value; }
  double get(int lane) const { return part[lane / kPerPart][lane % kPerPart]; }
  Vector<Real> narrow() const {
    if constexpr (kParts == 1) {
      return part[0];
    } else {
      typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
      const Half halves[2] = {__builtin_convertvector(part[0], Half),
                              __builtin_convertvector(part[1], Half)};
      return bit_cast<Vector<Real>>(halves);
    }
  }
};

template <typename Stored, int kIntervals>
struct RowsInLanes {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  using Wide = WideLanes<Real>;
  static constexpr int kCount = Lanes<Real>::kCount;
  static constexpr int kRings = kIntervals + 1;

  const hace::PathLogLossProblem& problem;
  const int64_t* const rows;
  const int count;
  Line* const line;  // by column: its exponential in each row
  const Positions positions;

  // Shorter paths get further intervals around them: the whole row, with weight 0.
  Unsigned<Real> start[kIntervals], size[kIntervals];
  Wide weight[kIntervals];
  bool is_empty[kRings][kCount];

  RowsInLanes(const hace::PathLogLossProblem& problem, const int64_t* rows, int count, void* lines)
      : problem(problem),
        rows(rows),
        count(count),
        line(static_cast<Line*>(lines)),
        positions{problem.position} {
    for (int lane = 0; lane < kCount; ++lane) {
      const int64_t target = problem.target[rows[lane < count ? lane : 0]];
      const int64_t first = problem.ptr[target], num_intervals = problem.ptr[target + 1] - first;
      int64_t inner = 0;
      for (int i = 0; i < kIntervals; ++i) {
        const bool there = i < num_intervals;
        const int64_t from = there ? problem.start[first + i] : 0;
        const int64_t columns = there ? problem.stop[first + i] - from : problem.columns;
        start[i][lane] = static_cast<Index<Real>>(from);
        size[i][lane] = static_cast<Index<Real>>(columns);
        weight[i].set(lane, there ? problem.weight[first + i] : 0);
        is_empty[i][lane] = columns == inner;
        inner = columns;
      }
      is_empty[kIntervals][lane] = problem.columns == inner;
    }
  }

  auto outside(int interval, Index<Real> position) const {
    return position - start[interval] >= size[interval];
  }

  Index<Real> position_of(int64_t column) const {
    return static_cast<Index<Real>>(problem.position ? problem.position[column] : column);
  }

  // Calls left_out(row) for the rows that are left to the caller.
  template <typename LeftOut>
  void run(Real smallest_sum, LeftOut left_out) {
    Line top = broadcast(-std::numeric_limits<Real>::infinity());
    const LaneRows<Stored> logits(problem.logits, problem.row_stride, rows, count);
    load_columns(logits, problem.columns, [&](int64_t column, Line x) {
      top = max(x, top);
      line[column] = x;
    });

    Wide mass[kRings], factor[kRings], loss;
    sum_rings(top, mass);
    resolve(mass, loss, factor);
    if (problem.grad) write(factor);
    for (int lane = 0; lane < count; ++lane) {
      bool plain = true;
      for (int r = 0; r < kRings; ++r)
        plain = plain && (is_empty[r][lane] || mass[r].get(lane) >= smallest_sum);
      problem.loss[rows[lane]] = loss.get(lane);
      if (!plain) left_out(rows[lane]);
    }
  }

 private:
  // Replaces logits by exponentials, and adds these up.
  void sum_rings(Line top, Wide* mass) {
    WideSum<Real> wide[kRings];
    for (int64_t from = 0; from < problem.columns; from += kRun) {
      const int64_t to = problem.columns - from < kRun ? problem.columns : from + kRun;
      Line run[kRings] = {};
      for (int64_t column = from; column < to; ++column) {
        Line rest = exp_nonpositive(line[column] - top);
        line[column] = rest;
        const Index<Real> position = position_of(column);
        for (int i = kIntervals - 1; i >= 0; --i) {
          const auto out = outside(i, position);
          run[i + 1] += out ? rest : Line{};
          rest = out ? Line{} : rest;
        }
        run[0] += rest;
      }
      for (int r = 0; r < kRings; ++r) wide[r].add(run[r]);
    }
    for (int r = 0; r < kRings; ++r) mass[r] = Wide(wide[r]);
  }

  // The same as path_rings.cpp does for one row.
  void resolve(const Wide* mass, Wide& loss, Wide* factor) {
    Wide row_factor;
    for (int lane = 0; lane < count; ++lane) row_factor.set(lane, problem.factor[rows[lane]]);
    for (int part = 0; part < Wide::kParts; ++part) {
      Vector<double> inside[kRings], a[kRings], quotient[kIntervals];
      inside[0] = mass[0].part[part];
      a[0] = Vector<double>{};
      for (int r = 0; r < kIntervals; ++r) {
        inside[r + 1] = inside[r] + mass[r + 1].part[part];
        a[r + 1] = a[r] + weight[r].part[part];
        quotient[r] = mass[r + 1].part[part] / inside[r];
        const Vector<double> u = 1 + quotient[r];
        const Vector<double> log = log_of<double>(u) * (quotient[r] / (u - 1));
        loss.part[part] += a[r + 1] * (u == 1 ? quotient[r] : log);
      }
      const Vector<double> of_row = row_factor.part[part];
      const Vector<double> of_total = of_row / inside[kIntervals];
      Vector<double> b = {}, beyond = {};  // 1 - P_r
      factor[kIntervals].part[part] = a[kIntervals] * of_total;
      for (int r = kIntervals - 1; r >= 0; --r) {
        const Vector<double> kept = 1 / (1 + quotient[r]);
        beyond = quotient[r] * kept + kept * beyond;
        b = weight[r].part[part] * beyond + kept * b;
        factor[r].part[part] = a[r] * of_total - b * of_row / inside[r];
      }
    }
  }

  void write(const Wide* factor) {
    Line of_ring[kRings];
    for (int r = 0; r < kRings; ++r) of_ring[r] = factor[r].narrow();
    store_columns<Stored>(problem.grad, problem.columns, rows, count, problem.past_caches,
                          [&](int64_t column) {
                            const Index<Real> position = position_of(column);
                            Line scale = of_ring[0];
                            for (int i = 0; i < kIntervals; ++i)
                              scale = outside(i, position) ? of_ring[i + 1] : scale;
                            return line[column] * scale;
                          });
  }
};

}  // namespace
