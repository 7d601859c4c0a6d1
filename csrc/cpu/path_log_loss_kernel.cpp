// The row kernels of `path_log_loss` for one instruction set (HACE_ISA names it).
//
// A target's path is a chain of nested intervals I_0 < I_1 < ... < I_{K-1} of class positions with
// weights w_i. Ring r is what I_r adds to I_{r-1}; ring K is everything outside. With
// lse_r = log sum exp(z) over I_r (lse_K over the whole row) and P_r = exp(lse_r - lse_K):
//
//   L          = -sum_i w_i log P_i
//   dL/dz_j    = p_j sum_i w_i - sum_{i: j in I_i} w_i exp(z_j - lse_i)
//
// For j in ring r the sum runs over i >= r. Splitting the first sum at r and pairing each w_i (i >=
// r) with its own term leaves no difference of nearly equal numbers within a term:
//
//   dL/dz_j    = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
//   A_r        = sum_{i < r} w_i
//   B_r        = w_r (1 - P_r) + exp(lse_r - lse_{r+1}) B_{r+1},   B_K = 0
//
// so the gradient is exp(z_j - m) times a factor that is constant between interval ends. Nothing is
// ever divided by P, which may be far below the smallest float.
//
// A negative entropy E = sum_j p_j log p_j of weight lambda adds lambda p_j (log p_j - E) to
// dL/dz_j; both passes then read the logits as well as the exponentials.
//
// path_plan.cpp plans a row, path_rings.cpp computes the loss and the factors from the rings'
// masses, and this file has the passes over the elements.
//
// If the table lists the rings' columns, rows without entropy or eps go by rows_by_words.h.
//
// Memory traffic of a row in float32: the logits are read once (4C), their exponentials are in a
// scratch row in the cache, and the gradient is written once (4C). If columns are not in the order
// of positions, these are read too (4C twice, the same for all rows, from the cache). Rows beyond
// the L2 cache read the logits again instead of exponentials (4C, from the next cache).

#include <cstring>

#include "path_rings.h"
#include "per_isa.h"
#include "row_by_position.h"
#include "row_loops.h"
#include "rows_by_words.h"
#include "rows_in_lanes.h"

namespace hace {
namespace {

// Gathered columns are prefetched this many columns before they are used.
constexpr int64_t kFetchAhead = 32;

// Exponentials whose sum is below this are measured again, relative to their own maximum: the rest
// of the exponent range would not resolve 2^-60 of them.
template <typename Real>
constexpr Real kSmallSum = sizeof(Real) == 4 ? Real(0x1p-64) : Real(0x1p-900);

// The same for rows with eps, whose gradient is as wrong as P where P is below eps: the rounding of
// z - max alone would be 2e-6 of exp(z - max) at a difference of 40.
template <typename Real>
constexpr Real kSmallSumWithEps = Real(0x1p-10);

// In rows beyond the L2 cache, computing exponentials again from the logits can take less time than
// writing and reading them. With AVX-512, an ordered row of 1 M columns then takes 1.1 times a copy
// of it instead of 1.3, and in random order 0.8 of the time.
template <typename Real>
constexpr bool kAgainInOrder = kVectorBytes == 64 && sizeof(Real) == 4;
constexpr bool kAgainByPosition = kVectorBytes >= 32;

template <typename Stored>
struct RowKernel {
  using Real = work_t<Stored>;

  const PathLogLossProblem& problem;
  Plan& plan;
  Real* const values;
  const Real small_sum;

  RowKernel(const PathLogLossProblem& problem, const PathLogLossWorkspace& workspace)
      : problem(problem),
        plan(plan_of(workspace)),
        values(static_cast<Real*>(workspace.values)),
        small_sum(problem.eps > 0 ? kSmallSumWithEps<Real> : kSmallSum<Real>) {}

  const Stored* logits() const {
    return static_cast<const Stored*>(problem.logits) + plan.row * problem.row_stride;
  }
  Stored* grad() const { return static_cast<Stored*>(problem.grad) + plan.row * problem.columns; }

  // ---- stages ----

  static void run_stage(const PathLogLossProblem& problem, PathLogLossWorkspace& workspace,
                        int stage, int64_t first, int64_t last) {
    RowKernel(problem, workspace).run(stage, first, last);
    if (problem.past_caches) fence_stores();
  }

  static void run_rows(const PathLogLossProblem& problem, int64_t first, int64_t last,
                       PathLogLossWorkspace& workspace) {
    if (problem.most_intervals_in_lanes > 0)
      run_in_lanes(problem, first, last, workspace);
    else
      for (int64_t row = first; row < last; ++row) run_row(problem, row, workspace);
    if (problem.past_caches) fence_stores();
  }

  static void run_row(const PathLogLossProblem& problem, int64_t row,
                      PathLogLossWorkspace& workspace) {
    if (problem.factor[row] == 0) return clear_row(problem, row);
    if (goes_by_words(problem) && RowByWords<Stored>(problem, row, workspace).run(kSmallSum<Real>))
      return;
    const Plan& plan = make_plan(problem, row, workspace);
    RowKernel kernel(problem, workspace);
    const int stages = num_stages(problem, plan);
    for (int stage = 0; stage < stages; ++stage) kernel.run(stage, 0, stage_units(plan, stage));
  }

  // Rows that do not count are not read. If only a few count, they cost less one by one.
  static void run_in_lanes(const PathLogLossProblem& problem, int64_t first, int64_t last,
                           PathLogLossWorkspace& workspace) {
    constexpr int kCount = Lanes<Real>::kCount;
    int64_t rows[kCount];
    for (int64_t begin = first; begin < last; begin += kCount) {
      int count = 0;
      for (int64_t row = begin; row < last && row < begin + kCount; ++row) {
        if (problem.factor[row] == 0)
          clear_row(problem, row);
        else
          rows[count++] = row;
      }
      if (count <= kCount / 4) {
        for (int i = 0; i < count; ++i) run_row(problem, rows[i], workspace);
        continue;
      }
      switch (problem.most_intervals_in_lanes) {
        case 1:
          run_block<1>(problem, rows, count, workspace);
          break;
        case 2:
          run_block<2>(problem, rows, count, workspace);
          break;
        case 3:
          run_block<3>(problem, rows, count, workspace);
          break;
        default:
          run_block<4>(problem, rows, count, workspace);
      }
    }
  }

  template <int kIntervals>
  static void run_block(const PathLogLossProblem& problem, const int64_t* rows, int count,
                        PathLogLossWorkspace& workspace) {
    RowsInLanes<Stored, kIntervals>(problem, rows, count, workspace.values)
        .run(kSmallSum<Real>, [&](int64_t row) { run_row(problem, row, workspace); });
  }

  static void clear_row(const PathLogLossProblem& problem, int64_t row) {
    problem.loss[row] = 0;
    if (problem.grad)
      std::memset(static_cast<Stored*>(problem.grad) + row * problem.columns, 0,
                  problem.columns * sizeof(Stored));
  }

  void run(int stage, int64_t first, int64_t last) {
    if (first == last) return;
    if (plan.by_position) {
      switch (plan.first_stage() + stage) {
        case 0:
          return exponentiate(first, last);
        case 1:
          return gather(first, last);
        case 2:
          return measure(first, last);
        case 3:
          return resolve_rings(problem, plan);
        case 4:
          return write_columns(first, last);
        default:
          return scatter(first, last);
      }
    }
    switch (stage) {
      case 0:
        return measure_runs(first, last, logits());
      case 1:
        return resolve_rings(problem, plan);
      default:
        return write_runs(first, last);
    }
  }

  // Whether exponentials are kept for later stages; otherwise these compute them again.
  bool keeps_exponentials() const {
    if (problem.entropy != 0 || (plan.by_position && plan.num_column_groups == 1)) return true;
    const bool again_pays = plan.by_position ? kAgainByPosition : kAgainInOrder<Real>;
    return problem.grad && !(again_pays && is_beyond_l2(problem));
  }

  // ---- columns in depth-first order ----

  void measure_runs(int64_t first, int64_t last, const Stored* source) {
    with_options([&](auto store, auto entropy) {
      for (int64_t group = first; group < last; ++group)
        measure_group<decltype(store)::value, decltype(entropy)::value>(group, source);
    });
  }

  template <typename Call>
  void with_options(Call call) {
    if (problem.entropy != 0) return call(std::true_type{}, std::true_type{});
    if (keeps_exponentials()) return call(std::true_type{}, std::false_type{});
    call(std::false_type{}, std::false_type{});
  }

  // Measures the pieces of a group, which lie one after the other, against their common maximum.
  template <bool kStore, bool kEntropy>
  void measure_group(int64_t group, const Stored* source) {
    Piece* const pieces = plan.pieces + plan.group_ptr[group];
    Piece* const end = plan.pieces + plan.group_ptr[group + 1];
    const int64_t begin = pieces->begin, size = end[-1].begin + end[-1].size - begin;
    const Real top = finite(max_of<Real>(source + begin, size));
    for (Piece* piece = pieces; piece != end; ++piece) {
      const Stored* x = source + piece->begin;
      Real* e = values + piece->begin;
      piece->max = top;
      exp_and_sum<kStore, kEntropy, Real>(x, piece->size, top, e, soon_after(*piece), *piece);
      if (piece->sum >= small_sum) continue;
      piece->max = finite(max_of<Real>(x, piece->size));
      exp_and_sum<kStore, kEntropy, Real>(x, piece->size, static_cast<Real>(piece->max), e,
                                          {nullptr, nullptr}, *piece);
    }
  }

  // Backwards: what the stages before read last is still in the caches.
  void write_runs(int64_t first, int64_t last) {
    for (int64_t p = last - 1; p >= first; --p) {
      const Piece& piece = plan.pieces[p];
      const Stored* x = logits() + piece.begin;
      const Real* e = values + piece.begin;
      Stored* g = grad() + piece.begin;
      const auto scale_to_g = [&](auto exponentials) {
        scale(exponentials, piece.size, static_cast<Real>(piece.factor),
              static_cast<Real>(piece.offset), g, problem.past_caches);
      };
      if (piece.slope != 0)
        scale_by_logits(e, x, piece, g);
      else if (keeps_exponentials())
        scale_to_g(Kept<Real>{e});
      else
        scale_to_g(Again<Real, Stored>{x, static_cast<Real>(piece.max)});
    }
  }

  // ---- columns by position ----

  ColumnGroup column_group(int64_t group) const {
    const int64_t begin = group * kGroupColumns, left = problem.columns - begin;
    return {begin,
            left < kGroupColumns ? left : kGroupColumns,
            {problem.position},
            plan.pieces + group * plan.num_cuts,
            plan.cuts,
            plan.num_cuts};
  }

  void exponentiate(int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      const ColumnGroup group = column_group(g);
      find_max(group);
      exponentiate(group);
    }
  }

  void find_max(const ColumnGroup& group) {
    const Real top = finite(max_of<Real>(logits() + group.begin, group.size));
    for (int64_t i = 0; i < group.num_cuts; ++i) group.pieces[i].max = top;
    if (plan.num_column_groups == 1) plan.only_max = top;
  }

  void exponentiate(const ColumnGroup& group) {
    exp_of(logits() + group.begin, group.size, static_cast<Real>(group.pieces[0].max),
           values + group.begin, soon_after(group.pieces[0]));
  }

  // Whether exponentials are gathered, not logits: if all of a row's are relative to one maximum,
  // they need not be computed again.
  bool gathers_exponentials() const { return plan.num_column_groups == 1 && problem.entropy == 0; }

  void gather(int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) gather(plan.gathered(p));
  }

  // Copies the exponentials or logits of a small ring, and, unless they are set apart, replaces the
  // exponentials by 0 in the row.
  void gather(const Piece& piece) {
    const Stored* const x = logits();
    const bool exponentials = gathers_exponentials(), clears = !plan.sets_gathered_apart();
    for_sides(piece, [&](Real* to, int64_t position, int64_t size) {
      for (int64_t i = 0; i < size; ++i) {
        const int64_t column = column_at(position + i);
        if (!clears && i + kFetchAhead < size)
          __builtin_prefetch(x + column_at(position + i + kFetchAhead));
        to[i] = exponentials ? values[column] : to_real(x[column]);
        if (clears) values[column] = 0;
      }
    });
  }

  // Measures groups of columns, and then groups of gathered values.
  void measure(int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const bool entropy = problem.entropy != 0;
      if (unit >= plan.num_column_groups)
        entropy ? measure_gathered<true>(unit - plan.num_column_groups)
                : measure_gathered<false>(unit - plan.num_column_groups);
      else
        entropy ? measure_columns<true>(unit) : measure_columns<false>(unit);
    }
  }

  template <bool kEntropy>
  void measure_columns(int64_t g) {
    const ColumnGroup group = column_group(g);
    const Stored* x = logits() + group.begin;
    Real* e = values + group.begin;
    if (plan.sets_gathered_apart()) find_max(group);
    const Real top = static_cast<Real>(group.pieces[0].max);
    const auto sum = [&](auto exponentials) {
      group.with_cuts([&](auto cuts) {
        sum_rings<kEntropy, decltype(cuts)::value, Real>(group, exponentials, x, top);
      });
    };
    bool& is_kept = group.pieces[0].is_kept;
    is_kept = keeps_exponentials();
    if (is_kept && plan.sets_gathered_apart()) exponentiate(group);
    if (!is_kept)
      sum(Again<Real, Stored>{x, top, kGroupColumns});
    else if (!kEntropy && group.num_cuts == 1)
      group.pieces[0].sum = sum_of(e, group.size);
    else
      sum(Kept<Real>{e});
    for (int64_t i = 0; i < group.num_cuts; ++i) {
      Piece& piece = group.pieces[i];
      if (!plan.is_large[i]) piece.sum = piece.moment = 0;
      if (piece.sum >= small_sum || !plan.is_large[i]) continue;
      const Interval outer = plan.interval(problem, piece.ring),
                     inner = plan.interval(problem, piece.ring - 1);
      const Real own_top = max_apart<Real>(group, outer, inner, x);
      // Nothing, or only -inf and NaN, which are in the sum already.
      if (own_top == -std::numeric_limits<Real>::infinity()) continue;
      if (!is_kept) exponentiate(group);
      is_kept = true;
      measure_apart<kEntropy>(group, outer, inner, x, own_top, e, piece);
    }
  }

  template <bool kEntropy>
  void measure_gathered(int64_t g) {
    Piece* const pieces = plan.pieces + plan.group_ptr[g];
    Piece* const end = plan.pieces + plan.group_ptr[g + 1];
    if (plan.sets_gathered_apart())
      for (const Piece* piece = pieces; piece != end; ++piece) gather(*piece);
    Real* const first = values + pieces->begin;
    const int64_t size = end[-1].begin + end[-1].size - pieces->begin;
    const bool exponentials = gathers_exponentials();
    const Real top =
        exponentials ? static_cast<Real>(plan.only_max) : finite(max_of<Real>(first, size));
    if (!kEntropy && !exponentials) exp_of(first, size, top, first, {nullptr, nullptr});
    for (Piece* piece = pieces; piece != end; ++piece) {
      Real* const e = values + piece->begin;
      piece->max = top;
      if constexpr (kEntropy)
        exp_and_sum<true, true, Real>(e, piece->size, top, e, {nullptr, nullptr}, *piece);
      else
        piece->sum = sum_of(e, piece->size);
      if (piece->sum >= small_sum) continue;
      const Stored* x = logits();
      for_sides(*piece, [&](Real* to, int64_t position, int64_t size) {
        for (int64_t i = 0; i < size; ++i) to[i] = to_real(x[column_at(position + i)]);
      });
      piece->max = finite(max_of<Real>(e, piece->size));
      exp_and_sum<true, kEntropy, Real>(e, piece->size, static_cast<Real>(piece->max), e,
                                        {nullptr, nullptr}, *piece);
    }
  }

  // Backwards, as write_runs.
  void write_columns(int64_t first, int64_t last) {
    for (int64_t g = last - 1; g >= first; --g) {
      const ColumnGroup group = column_group(g);
      const Stored* x = logits() + group.begin;
      const Real* e = values + group.begin;
      const bool is_kept = group.pieces[0].is_kept;
      bool is_plain = true;
      for (int64_t i = 0; i < group.num_cuts; ++i)
        is_plain = is_plain && group.pieces[i].slope == 0 && group.pieces[i].offset == 0;
      const auto scale_to_g = [&](auto exponentials) {
        group.with_cuts([&](auto cuts) {
          scale_rings<decltype(cuts)::value, Real>(group, exponentials, grad() + group.begin,
                                                   problem.past_caches);
        });
      };
      if (!is_plain && !is_kept) exponentiate(group);
      if (!is_plain)
        tilt_rings<Real>(group, e, x, grad() + group.begin);
      else if (is_kept)
        scale_to_g(Kept<Real>{e});
      else
        scale_to_g(Again<Real, Stored>{x, static_cast<Real>(group.pieces[0].max)});
    }
  }

  void scatter(int64_t first, int64_t last) {
    Stored* const g = grad();
    const Stored* const x = logits();
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = plan.gathered(p);
      const Real factor = static_cast<Real>(piece.factor), offset = static_cast<Real>(piece.offset);
      const Real slope = static_cast<Real>(piece.slope);
      const Real max = static_cast<Real>(piece.max), middle = static_cast<Real>(piece.middle);
      for_sides(piece, [&](const Real* e, int64_t position, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
          const int64_t column = column_at(position + i);
          if (problem.columns > kGroupColumns && i + kFetchAhead < size)
            __builtin_prefetch(g + column_at(position + i + kFetchAhead), 1);
          Real tilt = 0;
          if (slope != 0 && e[i] != 0) tilt = slope * (to_real(x[column]) - max - middle);
          to_stored(e[i] * (factor + tilt) + offset, g + column);
        }
      });
    }
  }

  // ---- what the stages use ----

  int64_t column_at(int64_t position) const {
    return problem.order ? problem.order[position] : position;
  }

  // Calls each(values, position of the first, number) for the two sides of a gathered piece.
  template <typename Each>
  void for_sides(const Piece& piece, Each each) const {
    Real* const from = values + piece.begin;
    each(from, piece.left, piece.left_size);
    each(from + piece.left_size, piece.right, piece.size - piece.left_size);
  }

  // What to subtract from logits: exponentials of -inf alone are then 0, and those of NaN are NaN.
  static Real finite(Real max) {
    return max == -std::numeric_limits<Real>::infinity() ? Real(0) : max;
  }

  // What to prefetch: the next group of a long row, or the next row's; and the row's gradient.
  Soon soon_after(const Piece& piece) const {
    const int64_t ahead = problem.row_stride < kGroupColumns ? problem.row_stride : kGroupColumns;
    const Stored* read = logits() + piece.begin + ahead;
    const Stored* written = nullptr;
    if (problem.grad && !problem.past_caches) written = grad() + piece.begin;
    return {reinterpret_cast<const char*>(read), reinterpret_cast<const char*>(written)};
  }

  static Real to_real(Stored value) { return load_first(&value, 1)[0]; }
  static void to_stored(Real value, Stored* to) { store_first(to, broadcast(value), 1); }
};

template <>
inline float RowKernel<float>::to_real(float value) {
  return value;
}
template <>
inline double RowKernel<double>::to_real(double value) {
  return value;
}
template <>
inline void RowKernel<float>::to_stored(float value, float* to) {
  *to = value;
}
template <>
inline void RowKernel<double>::to_stored(double value, double* to) {
  *to = value;
}

}  // namespace

PathLogLossKernel HACE_PER_ISA(path_log_loss_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Kernel = RowKernel<decltype(stored)>;
    return PathLogLossKernel{Kernel::run_stage, Kernel::run_rows};
  });
}

}  // namespace hace
