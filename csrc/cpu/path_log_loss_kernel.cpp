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
// With a negative entropy E = sum_j p_j log p_j of weight lambda beside it, dL/dz_j has
// lambda p_j (log p_j - E) more, and both passes look at the logits besides the exponentials.
//
// Bytes of a row, fp32: the logits are read once from memory (4C), their exponentials live in a
// scratch row in the cache, and the gradient is written once (4C).

#include "path_log_loss_kernel.h"

#include <cmath>
#include <limits>

#include "exp.h"
#include "per_isa.h"
#include "vec.h"

namespace hace {
namespace {

// Columns that are measured against one maximum. Twice this in float32 stays in a 256 KiB cache.
constexpr int64_t kGroupColumns = 16384;

// Columns in no order are asked of the memory this many before they are used.
constexpr int64_t kFetchAhead = 32;

// A piece whose maximum lies further than this below its group's takes its own: what is left of the
// exponent range then still resolves 2^-60 of the piece.
template <typename Real>
constexpr Real kOwnMaximumGap = sizeof(Real) == 4 ? Real(40) : Real(600);

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// sum * exp(max): a sum of exponentials that neither overflows nor underflows. 0 when sum is 0.
struct LogSum {
  double max;
  double sum;
};

inline LogSum merge(LogSum a, LogSum b) {
  if (a.sum == 0) return b;
  if (b.sum == 0) return a;
  if (a.max == b.max) return {a.max, a.sum + b.sum};
  if (a.max < b.max) return {b.max, a.sum * std::exp(a.max - b.max) + b.sum};
  return {a.max, a.sum + b.sum * std::exp(b.max - a.max)};
}

// a / b; infinite where that is beyond a double.
inline double ratio(LogSum a, LogSum b) {
  const double sums = a.sum / b.sum;
  return a.max == b.max || a.sum == 0 ? sums : sums * std::exp(a.max - b.max);
}

// log(1 + a / b).
inline double log_one_plus_ratio(LogSum a, LogSum b) {
  const double quotient = ratio(a, b);
  if (!(quotient < 1e300)) return (a.max - b.max) + std::log(a.sum / b.sum);
  // log(1 + q) without log1p, which takes several times as long: the error of rounding 1 + q to u
  // is undone by the quotient q / (u - 1).
  const double u = 1 + quotient;
  return u == 1 ? quotient : std::log(u) * (quotient / (u - 1));
}

// A stretch of one ring within one group.
struct Piece {
  int64_t begin;  // its first value in the scratch row
  int64_t size;
  int64_t position;  // the class position of its first value
  int64_t ring;
  double max;     // exponentials are relative to this
  double sum;     // of the exponentials
  double moment;  // of exponential times (logit - max), with entropy
  // The gradient is (factor + slope * (logit - max - middle)) * exponential + offset; slope is 0
  // without entropy.
  double factor;
  double slope;
  double middle;
  double offset;
};

struct Ring {
  LogSum mass;    // the ring's own
  LogSum inside;  // with every ring inside it: the interval's
  double weight;  // w_r
  double a, b;    // A_r, B_r above
  double offset;
};

// Everything about the row at hand; pieces, groups and rings follow it in the workspace.
struct Plan {
  int64_t row;
  int64_t num_rings;
  int64_t num_pieces;
  int64_t num_groups;
  int64_t num_in_place;  // pieces whose values are in column order; the rest are gathered
  bool gathers;
  Piece* pieces;
  int64_t* group_ptr;  // group g holds pieces group_ptr[g] .. group_ptr[g + 1]
  Ring* rings;
};

// ---- loops over contiguous values ----

template <typename Real, typename Source>
inline Real max_of(const Source* x, int64_t n) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr Real kLowest = -std::numeric_limits<Real>::infinity();
  Vector<Real> best[4];
  for (auto& b : best) b = broadcast(kLowest);
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) best[k] = max(best[k], load(x + i + k * kLanes));
  for (; i + kLanes <= n; i += kLanes) best[0] = max(best[0], load(x + i));
  if (i < n) best[1] = max(best[1], first_lanes<Real>(load_first(x + i, n - i), n - i, kLowest));
  return horizontal_max<Real>(max(max(best[0], best[1]), max(best[2], best[3])));
}

// What will be wanted soon and is asked of the memory while the exponentials keep the processor
// busy: the logits after these, and the gradient's lines, which a store would otherwise wait for.
// Worth a third of the time of rows that are not in the L2 cache. Null: nothing.
struct Soon {
  const char* read;
  const char* written;

  void fetch(int64_t first, int64_t last) const {
    for (int64_t at = first; at < last; at += 64) {
      if (read) __builtin_prefetch(read + at);
      if (written) __builtin_prefetch(written + at, 1);
    }
  }
};

template <typename Real>
struct Sums {
  Vector<Real> exps = {};
  Vector<Real> moments = {};
};

// Stores exp(x - shift) in e and sums it into the piece. x and e may be the same.
template <bool kStore, bool kEntropy, typename Real, typename Source>
inline void exp_and_sum(const Source* x, int64_t n, Real shift, Real* e, Soon soon, Piece& piece) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr int64_t kSize = sizeof(Source);
  Sums<Real> sums[2];
  const auto add = [](Vector<Real> value, Vector<Real> gap, Sums<Real>& to) {
    to.exps += value;
    if constexpr (kEntropy) to.moments += value == 0 ? Vector<Real>{} : value * gap;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    soon.fetch(i * kSize, (i + 2 * kLanes) * kSize);
    for (int k = 0; k < 2; ++k) {
      const Vector<Real> gap = load(x + i + k * kLanes) - shift;
      const Vector<Real> value = exp_nonpositive(gap);
      add(value, gap, sums[k]);
      if constexpr (kStore) store(e + i + k * kLanes, value);
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    const Vector<Real> gap = load_first(x + i, left) - shift;
    const Vector<Real> value = first_lanes<Real>(exp_nonpositive(gap), left, 0);
    add(value, gap, sums[0]);
    if constexpr (kStore) store_first(e + i, value, left);
  }
  piece.sum = horizontal_sum<Real>(sums[0].exps + sums[1].exps);
  if constexpr (kEntropy) piece.moment = horizontal_sum<Real>(sums[0].moments + sums[1].moments);
}

// g = (factor + slope (z - max - middle)) e + offset.
template <typename Real, typename Stored>
inline void scale_by_logits(const Real* e, const Stored* z, const Piece& piece, Stored* g) {
  constexpr int kLanes = Lanes<Real>::kCount;
  const Real factor = static_cast<Real>(piece.factor), slope = static_cast<Real>(piece.slope);
  const Real middle = static_cast<Real>(piece.middle), offset = static_cast<Real>(piece.offset);
  const Real max = static_cast<Real>(piece.max);
  for (int64_t i = 0; i < piece.size; i += kLanes) {
    const int64_t left = piece.size - i < kLanes ? piece.size - i : kLanes;
    const Vector<Real> value = load_first(e + i, left);
    const Vector<Real> tilt = value * ((load_first(z + i, left) - max - middle) * slope);
    store_first(g + i, value * factor + (value == 0 ? Vector<Real>{} : tilt) + offset, left);
  }
}

// g = factor * e + offset.
template <typename Real, typename Stored>
inline void scale(const Real* e, int64_t n, Real factor, Real offset, Stored* g, bool past_caches) {
  constexpr int kLanes = Lanes<Real>::kCount;
  int64_t i = 0;
  if (past_caches) {
    constexpr int64_t kLine = kLanes * sizeof(Stored);
    const int64_t misaligned = reinterpret_cast<uintptr_t>(g) % kLine;
    const int64_t head = misaligned ? (kLine - misaligned) / int64_t{sizeof(Stored)} : 0;
    if (head + kLanes <= n) {
      if (head) store_first(g, load(e) * factor + offset, head);
      for (i = head; i + kLanes <= n; i += kLanes)
        store_past_caches(g + i, load(e + i) * factor + offset);
    }
  }
  for (; i + kLanes <= n; i += kLanes) store(g + i, load(e + i) * factor + offset);
  if (i < n) store_first(g + i, load_first(e + i, n - i) * factor + offset, n - i);
}

// ---- one row ----

template <typename Stored>
struct RowKernel {
  using Real = work_t<Stored>;

  // The scratch row, then (for shuffled columns) the gathered values.
  static int64_t values(const PathLogLossProblem& problem) {
    return (problem.order ? 2 : 1) * (problem.columns + 64);
  }

  static int64_t max_groups(const PathLogLossProblem& problem) {
    return 2 * (problem.columns / kGroupColumns + 1);
  }

  static int64_t plan_bytes(const PathLogLossProblem& problem, int64_t max_entries) {
    const int64_t pieces = 2 * max_entries + 1 + max_groups(problem);
    return sizeof(Plan) + pieces * sizeof(Piece) + (max_groups(problem) + 1) * sizeof(int64_t) +
           (max_entries + 1) * sizeof(Ring);
  }

  static Plan& plan_of(const PathLogLossWorkspace& workspace) {
    return *static_cast<Plan*>(workspace.plan);
  }
  static Real* values_of(const PathLogLossWorkspace& workspace) {
    return static_cast<Real*>(workspace.values);
  }
  static const Stored* logits_of(const PathLogLossProblem& problem, int64_t row) {
    return static_cast<const Stored*>(problem.logits) + row * problem.row_stride;
  }
  static Stored* grad_of(const PathLogLossProblem& problem, int64_t row) {
    return static_cast<Stored*>(problem.grad) + row * problem.columns;
  }

  static int begin_row(const PathLogLossProblem& problem, int64_t row,
                       PathLogLossWorkspace& workspace) {
    Plan& plan = plan_of(workspace);
    const int64_t first = problem.ptr[problem.target[row]];
    const int64_t last = problem.ptr[problem.target[row] + 1];
    const int64_t num_intervals = last - first;
    plan.row = row;
    plan.num_rings = num_intervals + 1;
    plan.gathers = problem.order && num_intervals;
    plan.rings = reinterpret_cast<Ring*>(&plan + 1);
    plan.group_ptr = reinterpret_cast<int64_t*>(plan.rings + plan.num_rings);
    plan.pieces = reinterpret_cast<Piece*>(plan.group_ptr + max_groups(problem) + 1);
    for (int64_t r = 0; r < num_intervals; ++r) plan.rings[r].weight = problem.weight[first + r];

    plan.num_pieces = plan.num_groups = 0;
    plan.group_ptr[0] = 0;
    if (plan.gathers) {
      const int64_t in_place = largest_ring(problem, first, num_intervals);
      for (int64_t at = 0; at < problem.columns; at += kGroupColumns) {
        const int64_t left = problem.columns - at;
        add_piece(plan, at, left < kGroupColumns ? left : kGroupColumns, at, in_place);
        close_group(plan);
      }
      plan.num_in_place = plan.num_pieces;
      lay_out_rings(problem, plan, first, num_intervals, problem.columns + 64, in_place);
    } else {
      lay_out_rings(problem, plan, first, num_intervals, 0, -1);
      plan.num_in_place = plan.num_pieces;
    }
    return (plan.gathers ? 4 : 2) + (problem.grad ? (plan.gathers ? 2 : 1) : 0);
  }

  // The boundaries from left to right pass rings K, K-1, .., 0, .., K-1, K.
  static void lay_out_rings(const PathLogLossProblem& problem, Plan& plan, int64_t first,
                            int64_t num_intervals, int64_t begin, int64_t left_out) {
    int64_t in_group = 0;
    int64_t position = 0;
    for (int64_t s = 0; s <= 2 * num_intervals; ++s) {
      const int64_t ring = s < num_intervals ? num_intervals - s : s - num_intervals;
      const int64_t end = s < num_intervals      ? problem.start[first + ring - 1]
                          : ring < num_intervals ? problem.stop[first + ring]
                                                 : problem.columns;
      while (ring != left_out && position < end) {
        const int64_t room = kGroupColumns - in_group;
        const int64_t size = end - position < room ? end - position : room;
        add_piece(plan, begin, size, position, ring);
        begin += size;
        position += size;
        in_group += size;
        if (in_group == kGroupColumns) {
          close_group(plan);
          in_group = 0;
        }
      }
      position = end;
    }
    if (in_group) close_group(plan);
  }

  static void add_piece(Plan& plan, int64_t begin, int64_t size, int64_t position, int64_t ring) {
    Piece& piece = plan.pieces[plan.num_pieces++];
    piece.begin = begin;
    piece.size = size;
    piece.position = position;
    piece.ring = ring;
  }

  static void close_group(Plan& plan) { plan.group_ptr[++plan.num_groups] = plan.num_pieces; }

  // Gathering costs most by far where columns are shuffled, and the largest ring needs none: it is
  // what is left of the row when the others are taken out.
  static int64_t largest_ring(const PathLogLossProblem& problem, int64_t first,
                              int64_t num_intervals) {
    int64_t inner = 0, largest = 0, largest_size = -1;
    for (int64_t ring = 0; ring <= num_intervals; ++ring) {
      const int64_t interval = ring < num_intervals
                                   ? problem.stop[first + ring] - problem.start[first + ring]
                                   : problem.columns;
      if (interval - inner > largest_size) {
        largest_size = interval - inner;
        largest = ring;
      }
      inner = interval;
    }
    return largest;
  }

  // ---- stages ----

  static int64_t stage_units(const PathLogLossWorkspace& workspace, int stage) {
    const Plan& plan = plan_of(workspace);
    const int64_t gathered = plan.num_pieces - plan.num_in_place;
    if (plan.gathers) {
      const int64_t units[] = {plan.num_in_place, gathered, plan.num_groups, 1,
                               plan.num_in_place, gathered};
      return units[stage];
    }
    const int64_t units[] = {plan.num_groups, 1, plan.num_pieces};
    return units[stage];
  }

  static void run_stage(const PathLogLossProblem& problem, PathLogLossWorkspace& workspace,
                        int stage, int64_t first, int64_t last) {
    run_units(problem, workspace, stage, first, last);
    if (problem.past_caches) fence_stores();
  }

  static void run_units(const PathLogLossProblem& problem, PathLogLossWorkspace& workspace,
                        int stage, int64_t first, int64_t last) {
    Plan& plan = plan_of(workspace);
    Real* values = values_of(workspace);
    if (plan.gathers) {
      switch (stage) {
        case 0:
          return copy(problem, plan, values, first, last);
        case 1:
          return gather(problem, plan, values, first, last);
        case 2:
          return measure(problem, plan, values, values, first, last);
        case 3:
          return resolve(problem, plan);
        case 4:
          return write(problem, plan, values, first, last);
        default:
          return scatter(problem, plan, values, first, last);
      }
    }
    switch (stage) {
      case 0:
        return measure(problem, plan, logits_of(problem, plan.row), values, first, last);
      case 1:
        return resolve(problem, plan);
      default:
        return write(problem, plan, values, first, last);
    }
  }

  static void run_rows(const PathLogLossProblem& problem, int64_t first, int64_t last,
                       PathLogLossWorkspace& workspace) {
    for (int64_t row = first; row < last; ++row) {
      if (problem.factor[row] == 0) {
        clear_row(problem, row);
        continue;
      }
      const int stages = begin_row(problem, row, workspace);
      for (int stage = 0; stage < stages; ++stage)
        run_units(problem, workspace, stage, 0, stage_units(workspace, stage));
    }
    if (problem.past_caches) fence_stores();
  }

  static void clear_row(const PathLogLossProblem& problem, int64_t row) {
    problem.loss[row] = 0;
    if (problem.grad) std::memset(grad_of(problem, row), 0, problem.columns * sizeof(Stored));
  }

  static void copy(const PathLogLossProblem& problem, const Plan& plan, Real* values, int64_t first,
                   int64_t last) {
    const int64_t begin = plan.pieces[first].begin;
    const int64_t end = plan.pieces[last - 1].begin + plan.pieces[last - 1].size;
    const Stored* logits = logits_of(problem, plan.row);
    constexpr int kLanes = Lanes<Real>::kCount;
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) store(values + i, load(logits + i));
    if (i < end) store_first(values + i, load_first(logits + i, end - i), end - i);
  }

  // Moves the columns of the pieces out of the row: a logit of -inf adds no mass to what is left.
  static void gather(const PathLogLossProblem& problem, const Plan& plan, Real* values,
                     int64_t first, int64_t last) {
    const Stored* logits = logits_of(problem, plan.row);
    for (int64_t p = plan.num_in_place + first; p < plan.num_in_place + last; ++p) {
      const Piece& piece = plan.pieces[p];
      const int32_t* columns = problem.order + piece.position;
      Real* to = values + piece.begin;
      for (int64_t i = 0; i < piece.size; ++i) {
        if (i + kFetchAhead < piece.size) {
          __builtin_prefetch(logits + columns[i + kFetchAhead]);
          __builtin_prefetch(values + columns[i + kFetchAhead], 1);
        }
        to[i] = to_real(logits[columns[i]]);
        values[columns[i]] = -std::numeric_limits<Real>::infinity();
      }
    }
  }

  // The next group of a long row, or the next row at the same columns; and the row's gradient.
  static Soon soon_after(const PathLogLossProblem& problem, const Plan& plan, const Piece& piece) {
    if (piece.begin >= problem.columns) return {nullptr, nullptr};  // gathered
    const int64_t ahead = problem.row_stride < kGroupColumns ? problem.row_stride : kGroupColumns;
    const Stored* read = logits_of(problem, plan.row) + piece.begin + ahead;
    const Stored* written = nullptr;
    if (problem.grad && !problem.past_caches) written = grad_of(problem, plan.row) + piece.begin;
    return {reinterpret_cast<const char*>(read), reinterpret_cast<const char*>(written)};
  }

  template <typename Source>
  static void measure(const PathLogLossProblem& problem, Plan& plan, const Source* source,
                      Real* values, int64_t first, int64_t last) {
    if (problem.entropy != 0)
      measure<true, true>(problem, plan, source, values, first, last);
    else if (problem.grad)
      measure<true, false>(problem, plan, source, values, first, last);
    else
      measure<false, false>(problem, plan, source, values, first, last);
  }

  template <bool kStore, bool kEntropy, typename Source>
  static void measure(const PathLogLossProblem& problem, Plan& plan, const Source* source,
                      Real* values, int64_t first, int64_t last) {
    for (int64_t group = first; group < last; ++group) {
      Piece* const pieces = plan.pieces + plan.group_ptr[group];
      Piece* const end = plan.pieces + plan.group_ptr[group + 1];
      double group_max = -kInfinity;
      for (Piece* piece = pieces; piece != end; ++piece) {
        piece->max = max_of<Real>(source + piece->begin, piece->size);
        if (piece->max > group_max) group_max = piece->max;
      }
      for (Piece* piece = pieces; piece != end; ++piece) {
        if (group_max - piece->max <= kOwnMaximumGap<Real>) piece->max = group_max;
        if (piece->max == -kInfinity) piece->max = 0;  // exponentials of -inf are 0, of NaN NaN
        const Soon soon = soon_after(problem, plan, *piece);
        exp_and_sum<kStore, kEntropy, Real>(source + piece->begin, piece->size,
                                            static_cast<Real>(piece->max), values + piece->begin,
                                            soon, *piece);
      }
    }
  }

  // From the pieces' sums to the loss and to every piece's factor.
  static void resolve(const PathLogLossProblem& problem, Plan& plan) {
    const int64_t num_intervals = plan.num_rings - 1;
    Ring* const rings = plan.rings;
    for (int64_t r = 0; r < plan.num_rings; ++r) rings[r].mass = {0, 0};
    for (int64_t p = 0; p < plan.num_pieces; ++p) {
      const Piece& piece = plan.pieces[p];
      rings[piece.ring].mass = merge(rings[piece.ring].mass, {piece.max, piece.sum});
    }
    rings[0].inside = rings[0].mass;
    for (int64_t r = 1; r < plan.num_rings; ++r)
      rings[r].inside = merge(rings[r - 1].inside, rings[r].mass);
    const LogSum total = rings[num_intervals].inside;

    if (problem.eps > 0)
      problem.loss[plan.row] = resolve_with_eps(problem, plan);
    else
      problem.loss[plan.row] = resolve_exactly(problem, plan);
    const double entropy = problem.entropy != 0 ? negative_entropy(plan, total) : 0;
    problem.loss[plan.row] += problem.entropy * entropy;
    if (!(total.sum > 0)) problem.loss[plan.row] = kNaN;
    if (!problem.grad) return;

    const double row_factor = problem.factor[plan.row];
    for (int64_t p = 0; p < plan.num_pieces; ++p) {
      Piece& piece = plan.pieces[p];
      const Ring& ring = rings[piece.ring];
      double factor = 0;
      if (piece.sum != 0) factor = ring.a * ratio({piece.max, 1}, total);
      if (piece.sum != 0 && ring.b != 0) factor -= ring.b * ratio({piece.max, 1}, ring.inside);
      piece.factor = total.sum > 0 ? row_factor * factor : kNaN;
      piece.offset = row_factor * ring.offset;
      piece.slope = 0;
      if (problem.entropy == 0 || piece.sum == 0) continue;
      piece.slope = row_factor * problem.entropy * ratio({piece.max, 1}, total);
      piece.middle = (total.max - piece.max) + std::log(total.sum) + entropy;
    }
  }

  // sum_j p_j log p_j: with M = lse - log S the total's max, the moments about each piece's own
  // max are first moved to M.
  static double negative_entropy(const Plan& plan, LogSum total) {
    double moment = 0;
    for (int64_t p = 0; p < plan.num_pieces; ++p) {
      const Piece& piece = plan.pieces[p];
      if (piece.sum == 0) continue;
      const double gap = piece.max - total.max;
      if (std::exp(gap) == 0) continue;  // and the gap itself may be infinite
      moment += std::exp(gap) * (piece.moment + gap * piece.sum);
    }
    return moment / total.sum - std::log(total.sum);
  }

  static double resolve_exactly(const PathLogLossProblem& problem, Plan& plan) {
    const int64_t num_intervals = plan.num_rings - 1;
    Ring* const rings = plan.rings;
    const int64_t first = problem.ptr[problem.target[plan.row]];

    // Intervals without mass: the loss is infinite, and the gradient's second sum is the weight
    // spread evenly over the interval's columns.
    int64_t alive = 0;
    double loss = 0;
    for (; alive < num_intervals && rings[alive].inside.sum == 0; ++alive)
      loss += rings[alive].weight * kInfinity;
    double offset = 0;
    for (int64_t r = num_intervals; r >= 0; --r) {
      if (r < alive)
        offset -= rings[r].weight / (problem.stop[first + r] - problem.start[first + r]);
      rings[r].offset = offset;
    }

    // -log P_i is the sum of log(inside_{k+1} / inside_k) over k >= i: each step counts for the
    // weights of all intervals inside it, and none of them cancels.
    double a = 0, a_alive = 0;
    for (int64_t r = 0; r < num_intervals; ++r) {
      rings[r].a = a;
      a += rings[r].weight;
      if (r < alive) continue;
      a_alive += rings[r].weight;
      loss += a_alive * log_one_plus_ratio(rings[r + 1].mass, rings[r].inside);
    }
    rings[num_intervals].a = a;

    double b = 0, outside = 0;  // outside: 1 - P_r
    rings[num_intervals].b = 0;
    for (int64_t r = num_intervals - 1; r >= 0; --r) {
      if (r < alive) {
        rings[r].b = 0;
        continue;
      }
      const double added = ratio(rings[r + 1].mass, rings[r].inside);
      const double kept = 1 / (1 + added);  // exp(lse_r - lse_{r+1})
      const double lost = added < 1e300 ? added / (1 + added) : 1;
      outside = lost + kept * outside;
      b = rings[r].weight * outside + kept * b;
      rings[r].b = b;
    }
    return loss;
  }

  // With L = -sum_i w_i log(P_i + eps) and c_i = w_i / (P_i + eps):
  //   dL/dz_j = p_j (sum_{i < r} c_i P_i - sum_{i >= r} c_i (1 - P_i))   for j in ring r.
  static double resolve_with_eps(const PathLogLossProblem& problem, Plan& plan) {
    const int64_t num_intervals = plan.num_rings - 1;
    Ring* const rings = plan.rings;
    const LogSum total = rings[num_intervals].inside;
    double loss = 0, inner = 0;
    for (int64_t r = 0; r < num_intervals; ++r) {
      const double p = rings[r].inside.sum == 0 ? 0 : ratio(rings[r].inside, total);
      rings[r].a = inner;
      rings[r].b = p;
      inner += rings[r].weight * p / (p + problem.eps);
      loss -= rings[r].weight * std::log(p + problem.eps);
    }
    double outer = 0, outside = 0;
    rings[num_intervals].a = inner;
    for (int64_t r = num_intervals; r >= 0; --r) {
      if (r < num_intervals) {
        const double p = rings[r].b;
        outside += rings[r + 1].mass.sum == 0 ? 0 : ratio(rings[r + 1].mass, total);
        outer += rings[r].weight / (p + problem.eps) * outside;
      }
      rings[r].a -= outer;
      rings[r].b = 0;
      rings[r].offset = 0;
    }
    return loss;
  }

  static void write(const PathLogLossProblem& problem, const Plan& plan, const Real* values,
                    int64_t first, int64_t last) {
    Stored* grad = grad_of(problem, plan.row);
    for (int64_t p = first; p < last; ++p) {
      const Piece& piece = plan.pieces[p];
      if (piece.slope != 0) {
        scale_by_logits(values + piece.begin, logits_of(problem, plan.row) + piece.begin, piece,
                        grad + piece.begin);
        continue;
      }
      scale(values + piece.begin, piece.size, static_cast<Real>(piece.factor),
            static_cast<Real>(piece.offset), grad + piece.begin, problem.past_caches);
    }
  }

  static void scatter(const PathLogLossProblem& problem, const Plan& plan, const Real* values,
                      int64_t first, int64_t last) {
    Stored* grad = grad_of(problem, plan.row);
    const Stored* logits = logits_of(problem, plan.row);
    for (int64_t p = plan.num_in_place + first; p < plan.num_in_place + last; ++p) {
      const Piece& piece = plan.pieces[p];
      const int32_t* columns = problem.order + piece.position;
      const Real* from = values + piece.begin;
      const Real factor = static_cast<Real>(piece.factor), offset = static_cast<Real>(piece.offset);
      for (int64_t i = 0; i < piece.size; ++i) {
        if (i + kFetchAhead < piece.size) __builtin_prefetch(grad + columns[i + kFetchAhead], 1);
        Real tilt = 0;
        if (piece.slope != 0 && from[i] != 0)
          tilt = static_cast<Real>(piece.slope) *
                 (to_real(logits[columns[i]]) - static_cast<Real>(piece.max) -
                  static_cast<Real>(piece.middle));
        to_stored(from[i] * (factor + tilt) + offset, grad + columns[i]);
      }
    }
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

template <typename Stored>
PathLogLossKernel kernel() {
  using Kernel = RowKernel<Stored>;
  return {Kernel::begin_row, Kernel::stage_units, Kernel::run_stage,
          Kernel::run_rows,  Kernel::values,      Kernel::plan_bytes};
}

}  // namespace

PathLogLossKernel HACE_PER_ISA(path_log_loss_kernel_)(Element element) {
  return for_element(element, [](auto stored) { return kernel<decltype(stored)>(); });
}

}  // namespace hace
