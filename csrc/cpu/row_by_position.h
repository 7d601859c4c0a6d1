// Loops over a row's columns in any order: a column belongs to an interval exactly if its position
// lies in it (path_plan.h).
#pragma once

#include <cstdint>
#include <type_traits>

#include "exp.h"
#include "path_plan.h"
#include "row_loops.h"
#include "vec.h"

namespace {

using hace::Interval;
using hace::kMostCuts;
using hace::Piece;

// The positions of a row's columns.
struct Positions {
  const int32_t* position;  // null: columns are positions

  template <typename Real>
  Unsigned<Real> at(int64_t column) const {
    return position ? load_indices<Real>(position + column) : counted<Real>(column);
  }
  template <typename Real>
  Unsigned<Real> first_at(int64_t column, int64_t count) const {
    return position ? load_first_indices<Real>(position + column, count) : counted<Real>(column);
  }

 private:
  template <typename Real>
  static Unsigned<Real> counted(int64_t from) {
    return bit_cast<Unsigned<Real>>(lane_indices<Real>()) + static_cast<Index<Real>>(from);
  }
};

// An interval that positions are compared with.
template <typename Real>
struct Cut {
  Index<Real> start, size;

  Cut() = default;
  explicit Cut(Interval interval)
      : start(static_cast<Index<Real>>(interval.start)),
        size(static_cast<Index<Real>>(interval.size)) {}
  auto holds(Unsigned<Real> position) const { return position - start < size; }
};

// A group of columns and its pieces: one per cut, from the whole row inwards.
struct ColumnGroup {
  int64_t begin;
  int64_t size;
  Positions positions;
  Piece* pieces;
  const Interval* cuts;  // those of Plan
  int64_t num_cuts;

  // Calls pass with the number of cuts as a constant, or with the constant -1 if there are many.
  template <typename Pass>
  void with_cuts(Pass pass) const {
    switch (num_cuts) {
      case 1:
        return pass(std::integral_constant<int, 0>{});
      case 2:
        return pass(std::integral_constant<int, 1>{});
      case 3:
        return pass(std::integral_constant<int, 2>{});
      case 4:
        return pass(std::integral_constant<int, 3>{});
      default:
        return pass(std::integral_constant<int, -1>{});
    }
  }

  // Calls step(offset, count, positions) for all vectors of columns from `from` to `to`; in whole
  // vectors, count is a constant.
  template <typename Real, typename Step>
  void for_vectors(int64_t from, int64_t to, Step step) const {
    constexpr int kLanes = Lanes<Real>::kCount;
    int64_t i = from;
    for (; i + kLanes <= to; i += kLanes)
      step(i, std::integral_constant<int64_t, kLanes>{}, positions.at<Real>(begin + i));
    if (i < to) step(i, to - i, positions.first_at<Real>(begin + i, to - i));
  }
  template <typename Real, typename Step>
  void for_vectors(Step step) const {
    for_vectors<Real>(0, size, step);
  }
};

// How many vectors are added up before their sum is added to a wider one, so that long rows lose no
// digits.
constexpr int64_t kVectorsInRun = 256;

template <int kCuts>
constexpr int64_t cut_capacity = kCuts < 0 ? kMostCuts : kCuts + 1;

// Adds up the exponentials and, with entropy, their moments, for which x are the logits.
template <bool kEntropy, int kCuts, typename Real, typename Exponentials, typename Source>
inline void sum_rings(const ColumnGroup& group, Exponentials e, const Source* x, Real shift) {
  const int64_t num_cuts = kCuts < 0 ? group.num_cuts - 1 : kCuts;
  Cut<Real> cuts[cut_capacity<kCuts>];
  Vector<Real> sums[cut_capacity<kCuts>] = {}, moments[cut_capacity<kCuts>] = {};
  for (int64_t c = 0; c <= num_cuts; ++c) cuts[c] = Cut<Real>(group.cuts[c]);
  constexpr int64_t kRunColumns = kVectorsInRun * Lanes<Real>::kCount;
  for (int64_t from = 0; from < group.size; from += kRunColumns) {
    const int64_t to = group.size - from < kRunColumns ? group.size : from + kRunColumns;
    Vector<Real> run[cut_capacity<kCuts>] = {}, run_moments[cut_capacity<kCuts>] = {};
    group.for_vectors<Real>(from, to, [&](int64_t i, auto count, Unsigned<Real> position) {
      Vector<Real> rest = e.first_at(i, count), rest_moment = {};
      if constexpr (kEntropy)
        rest_moment = rest == 0 ? Vector<Real>{} : rest * (load_first(x + i, count) - shift);
      for (int64_t c = 0; c < num_cuts; ++c) {
        const auto inside = cuts[c + 1].holds(position);
        run[c] += inside ? Vector<Real>{} : rest;
        rest = inside ? rest : Vector<Real>{};
        if constexpr (kEntropy) {
          run_moments[c] += inside ? Vector<Real>{} : rest_moment;
          rest_moment = inside ? rest_moment : Vector<Real>{};
        }
      }
      run[num_cuts] += rest;
      if constexpr (kEntropy) run_moments[num_cuts] += rest_moment;
    });
    for (int64_t c = 0; c <= num_cuts; ++c) {
      sums[c] += run[c];
      if constexpr (kEntropy) moments[c] += run_moments[c];
    }
  }
  for (int64_t c = 0; c <= num_cuts; ++c) {
    group.pieces[c].sum = horizontal_sum<Real>(sums[c]);
    if constexpr (kEntropy) group.pieces[c].moment = horizontal_sum<Real>(moments[c]);
  }
}

// g = factor e, where factor is that of the ring that each column is in.
template <int kCuts, typename Real, typename Exponentials, typename Stored>
inline void scale_rings(const ColumnGroup& group, Exponentials e, Stored* g, bool past_caches) {
  const int64_t num_cuts = kCuts < 0 ? group.num_cuts - 1 : kCuts;
  Cut<Real> cuts[cut_capacity<kCuts>];
  Vector<Real> factors[cut_capacity<kCuts>];
  for (int64_t c = 0; c <= num_cuts; ++c) {
    cuts[c] = Cut<Real>(group.cuts[c]);
    factors[c] = broadcast(static_cast<Real>(group.pieces[c].factor));
  }
  const auto gradient = [&](int64_t i, auto count, Unsigned<Real> position) {
    Vector<Real> factor = factors[0];
    for (int64_t c = 1; c <= num_cuts; ++c) factor = cuts[c].holds(position) ? factors[c] : factor;
    return e.first_at(i, count) * factor;
  };
  const auto put = [&](int64_t i, auto count, Unsigned<Real> position) {
    store_first(g + i, gradient(i, count, position), count);
  };
  if (!past_caches) return group.for_vectors<Real>(put);
  const int64_t before = elements_before_vector<Real>(g);
  const int64_t head = before < group.size ? before : group.size;
  group.for_vectors<Real>(0, head, put);
  group.for_vectors<Real>(head, group.size, [&](int64_t i, auto count, Unsigned<Real> position) {
    if constexpr (std::is_integral_v<decltype(count)>)
      put(i, count, position);
    else
      store_past_caches(g + i, gradient(i, count, position));
  });
}

// g = (factor + slope (x - max - middle)) e + offset, with the terms of each column's ring.
template <typename Real, typename Stored>
inline void tilt_rings(const ColumnGroup& group, const Real* e, const Stored* x, Stored* g) {
  group.for_vectors<Real>([&](int64_t i, auto count, Unsigned<Real> position) {
    Vector<Real> factor = {}, slope = {}, max = {}, middle = {}, offset = {};
    for (int64_t c = 0; c < group.num_cuts; ++c) {
      const Piece& piece = group.pieces[c];
      const auto inside = Cut<Real>(group.cuts[c]).holds(position);
      const auto put = [&](Vector<Real>& to, double value) {
        to = inside ? broadcast(static_cast<Real>(value)) : to;
      };
      put(factor, piece.factor);
      put(slope, piece.slope);
      put(max, piece.max);
      put(middle, piece.slope == 0 ? 0 : piece.middle);
      put(offset, piece.offset);
    }
    const Vector<Real> value = load_first(e + i, count);
    const Vector<Real> tilt = value * ((load_first(x + i, count) - max - middle) * slope);
    const auto flat = (value == 0) | (slope == 0);
    store_first(g + i, value * factor + (flat ? Vector<Real>{} : tilt) + offset, count);
  });
}

// The maximum of one ring of the group, what `outer` adds to `inner`; -inf if it has no column
// here.
template <typename Real, typename Source>
inline Real max_apart(const ColumnGroup& group, Interval outer, Interval inner, const Source* x) {
  constexpr Real kLowest = -std::numeric_limits<Real>::infinity();
  const Cut<Real> in(outer), out(inner);
  Vector<Real> best = broadcast(kLowest);
  group.for_vectors<Real>([&](int64_t i, auto count, Unsigned<Real> position) {
    const auto own = in.holds(position) & ~out.holds(position);
    const Vector<Real> value = first_lanes<Real>(load_first(x + i, count), count, kLowest);
    best = max(own ? value : broadcast(kLowest), best);
  });
  return horizontal_max<Real>(best);
}

// Measures one ring of the group against its own maximum. This is for rings whose exponentials are
// too small beside those of others.
template <bool kEntropy, typename Real, typename Source>
inline void measure_apart(const ColumnGroup& group, Interval outer, Interval inner, const Source* x,
                          Real top, Real* e, Piece& piece) {
  const Cut<Real> in(outer), out(inner);
  Vector<Real> sum = {}, moment = {};
  group.for_vectors<Real>([&](int64_t i, auto count, Unsigned<Real> position) {
    const auto own = in.holds(position) & ~out.holds(position);
    const Vector<Real> gap = load_first(x + i, count) - top;
    const Vector<Real> all = first_lanes<Real>(exp_nonpositive(gap), count, 0);
    const Vector<Real> value = own ? all : Vector<Real>{};
    sum += value;
    if constexpr (kEntropy) moment += value == 0 ? Vector<Real>{} : value * gap;
    store_first(e + i, own ? all : load_first(e + i, count), count);
  });
  piece.max = top;
  piece.sum = horizontal_sum<Real>(sum);
  if constexpr (kEntropy) piece.moment = horizontal_sum<Real>(moment);
}

}  // namespace
