// The block kernels of `tree_log_loss` for one instruction set.
//
// With q_v the mass that node v keeps, W = sum_v q_v, and top and sum as in tree_sweeps.h,
//
//   L = -sum_v q_v log P_v = W log sum_root - sum_v q_v ((top_v - top_root) + log sum_v)
//
// so that the upward sweep over the logits also gives the loss, and the gradient is what the mass
// pulls on the way down (`pull_down`).
//
// The mass of probabilities rises in the same upward sweep: m_v = t_v + sum_c (1 - keep_c) m_c and
// q_v = keep_v m_v. Targets that are indices do not need mass at most places. What they put on
// every class, alpha, has risen once for all rows: it is alpha kept_unit_v at every place. What a
// target puts on its own node rises along its path only.
//
// Soft labels put the same on every class of a ring between two nodes of the target's path, since
// that depends on the lowest common ancestor. Then alpha is that of the ring, alpha_v =
// alpha_parent + delta_v with delta at the nodes of the path, and the excess of the inner rings
// over the outer one rises along the path:
//
//   e_parent = (1 - keep_v) (e_v + delta_v reaching_v),   q_v = alpha_v kept_unit_v + keep_v e_v
//
// With eps, L = -sum_v q_v log(P_v + eps), and its gradient is that of the mass
// q_v P_v / (P_v + eps), which a downward sweep computes before the pull.
//
// Memory traffic of a block of rows in float32: the logits are read once and the gradient is
// written once (8C per row, and 4T for probabilities). The lines of all places are visited once
// upwards and once downwards, in the L2 or L3 cache.

#include "tree_log_loss_kernel.h"

#include <cmath>
#include <vector>

#include "per_isa.h"
#include "soft_label.h"
#include "tree_row.h"
#include "tree_sweeps.h"

namespace hace {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Mass smaller than this fraction of what its target started with is not followed further up.
constexpr double kCut = 0x1p-60;

enum class Kind {
  kOnPaths,      // indices: inner places have mass, columns none but the targets' own
  kOnAllPlaces,  // indices that put alpha on every class too
  kByColumn,     // the same, but the targets' own columns have mass in their lines, all others NaN
  kRising,       // probabilities
};

// Computes the mass at every place, the loss, and W during the upward sweep.
template <Kind kKind, bool kLoss, typename Real>
struct LossMass {
  using Line = Vector<Real>;
  static constexpr bool kOfIndices = kKind == Kind::kOnAllPlaces || kKind == Kind::kByColumn;

  const Tree& tree;
  const Real* kept;
  const Real* handed;
  const Real* kept_unit;
  const Line* alpha;  // of inner place v: alpha[v * alpha_step]
  int64_t alpha_step;
  Line* mass;  // by place: what is put there, and then what is kept
  Line row_top;

  WideSum<Real> total = {}, loss = {}, handed_up = {};
  Line run_total = {}, run_loss = {}, run_handed_up = {}, alpha_here = {};

  void begin(int64_t v) {
    if constexpr (kOfIndices) alpha_here = alpha[v * alpha_step];
    if constexpr (kKind == Kind::kRising) {
      alpha_here = alpha[0];
      handed_up = {};
    }
  }

  void column(int32_t c, Line logit) {
    if constexpr (kKind == Kind::kOnPaths) return;
    Line q;
    if constexpr (kKind == Kind::kOnAllPlaces) q = alpha_here * kept_unit[c];
    if constexpr (kKind == Kind::kByColumn) {
      const Line spread = kept_unit ? alpha_here * kept_unit[c] : Line{};
      mass[c] = q = mass[c] == mass[c] ? mass[c] : spread;
    }
    if constexpr (kKind == Kind::kRising) q = keeps(c);
    run_total += q;
    if constexpr (kLoss) run_loss += weighted(q, logit - row_top);
  }

  void inner(int32_t c) {
    if constexpr (kKind == Kind::kRising) keeps(c);
  }

  void end_run() {
    if constexpr (kKind == Kind::kOnPaths) return;
    total.add(run_total);
    if constexpr (kLoss) loss.add(run_loss);
    if constexpr (kKind == Kind::kRising) handed_up.add(run_handed_up);
    run_total = run_loss = run_handed_up = Line{};
  }

  void end(int64_t v, Line top, Line sum) {
    if (v == tree.num_inner - 1) return;  // the virtual root, where log P = 0
    const int64_t place = tree.num_classes + v;
    Line q = mass[place];
    if constexpr (kOfIndices)
      if (kept_unit) mass[place] = q = q + alpha_here * kept_unit[place];
    if constexpr (kKind == Kind::kRising) {
      mass[place] = q = q + handed_up.narrow();
      q = q * kept[place];
      if (kept_unit) q = q + alpha_here * kept_unit[place];
    }
    total.add(q);
    if constexpr (kLoss) loss.add(weighted(q, (top - row_top) + log_of<Real>(sum)));
  }

 private:
  // Splits the mass that reached place c into what it keeps and what it hands up.
  Line keeps(int32_t c) {
    const Line reached = mass[c];
    Line q = reached * kept[c];
    run_handed_up += reached * handed[c];
    if (kept_unit) q = q + alpha_here * kept_unit[c];
    mass[c] = q;
    return q;
  }

  // 0 log 0 is 0.
  static Line weighted(Line q, Line log_p) { return q == 0 ? Line{} : q * log_p; }
};

template <typename Stored>
struct Block {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int kRows = Lanes<Real>::kCount;

  // Mass that a target puts on its own column.
  struct OnColumn {
    int lane;
    int32_t column;
    double reached;
  };

  const TreeLogLossProblem& problem;
  const Tree& tree;
  const int64_t* rows;
  const int count;
  const LaneRows<Stored> logits;
  Line* const line;   // by place
  Line* const mass;   // by place
  Line* const sum;    // by inner place
  Line* const alpha;  // by inner place with soft labels, else a single one
  Line* const p;      // by inner place, with eps only
  const Real* const kept_unit;
  std::vector<OnColumn>& on_columns;
  WideSum<Real> total = {}, loss = {};

  static int64_t num_lines(const TreeLogLossProblem& problem) {
    const Tree& tree = problem.tree;
    return 2 * tree.num_places() + tree.num_inner + (problem.log_similarity ? tree.num_inner : 1) +
           (problem.eps > 0 ? tree.num_inner : 0);
  }

  static void run(const TreeLogLossProblem& problem, const int64_t* rows, int64_t count,
                  void* lines, TreeLogLossFault* fault) {
    thread_local std::vector<OnColumn> on_columns;
    on_columns.clear();
    Block block(problem, rows, static_cast<int>(count), static_cast<Line*>(lines), on_columns);
    block.run(fault);
  }

  Block(const TreeLogLossProblem& problem, const int64_t* rows, int count, Line* lines,
        std::vector<OnColumn>& on_columns)
      : problem(problem),
        tree(problem.tree),
        rows(rows),
        count(count),
        logits(problem.logits, problem.row_stride, rows, count),
        line(lines),
        mass(line + tree.num_places()),
        sum(mass + tree.num_places()),
        alpha(sum + tree.num_inner),
        p(alpha + (problem.log_similarity ? tree.num_inner : 1)),
        kept_unit(static_cast<const Real*>(problem.kept_unit)),
        on_columns(on_columns) {}

  void run(TreeLogLossFault* fault) {
    if (problem.mass)
      load_mass(fault);
    else
      place_indices();

    Line row_top = broadcast(std::numeric_limits<Real>::lowest());
    load_columns(logits, tree.num_classes, [&](int64_t column, Line x) {
      row_top = max(x, row_top);
      line[column] = x;
    });
    if (problem.mass)
      sweep_up<Kind::kRising>(row_top);
    else if (by_column())
      sweep_up<Kind::kByColumn>(row_top);
    else if (problem.spreads)
      sweep_up<Kind::kOnAllPlaces>(row_top);
    else
      sweep_up<Kind::kOnPaths>(row_top);

    if (problem.eps > 0)
      lose_with_eps();
    else
      lose(row_top);
    if (problem.grad) write_gradient();
  }

  // Whether a target's own column cannot be accounted for separately: what it gets and what
  // smoothing takes from it may cancel, and with eps the loss depends on its whole mass.
  bool by_column() const { return problem.eps > 0 || problem.spread; }

  // ---- targets ----

  void load_mass(TreeLogLossFault* fault) {
    const int64_t first = problem.mass_covers_columns ? tree.num_classes : 0;
    for (int64_t place = first; place < tree.num_places(); ++place) mass[place] = Line{};
    WideSum<Real> on_every_class;
    Line run = {};
    const LaneRows<Real> targets(problem.mass, problem.mass_stride, rows, count);
    load_columns(targets, problem.num_targets, [&](int64_t target, Line t) {
      if (problem.spread) run += t * static_cast<Real>(problem.spread[target]);
      if (target % kRun == kRun - 1) {
        on_every_class.add(run);
        run = Line{};
      }
      const int32_t place = problem.target_place[target];
      const Line put = t * static_cast<Real>(problem.share[target]);
      if (place >= first)
        mass[place] += put;
      else if (place >= 0)
        mass[place] = put;
      else
        for (int lane = 0; lane < count; ++lane)
          if (t[lane] != 0) *fault = {rows[lane], target};
    });
    on_every_class.add(run);
    alpha[0] = on_every_class.narrow() + static_cast<Real>(problem.row_spread);
  }

  void place_indices() {
    const Line none = broadcast(static_cast<Real>(kNaN));
    for (int64_t c = 0; by_column() && c < tree.num_classes; ++c) mass[c] = none;
    for (int64_t place = tree.num_classes; place < tree.num_places(); ++place) mass[place] = Line{};
    const int64_t num_alphas = problem.log_similarity ? tree.num_inner : 1;
    for (int64_t v = 0; v < num_alphas; ++v) alpha[v] = Line{};

    double on_every_class[kRows];
    for (int lane = 0; lane < count; ++lane) {
      on_every_class[lane] = problem.row_spread;
      for (int64_t k = 0; k < problem.num_indices; ++k) {
        const int64_t at = rows[lane] * problem.num_indices + k;
        const int64_t target = problem.index[at];
        const double weight = problem.index_weight ? problem.index_weight[at] : 1;
        if (target == problem.ignore_index || weight == 0) continue;
        if (problem.spread) on_every_class[lane] += weight * problem.spread[target];
        if (problem.log_similarity)
          put_soft_label(
              problem, target, weight * problem.share[target],
              [&](int64_t v, double delta) { alpha[v][lane] += static_cast<Real>(delta); },
              [&](int32_t place, double reached) { put_at(lane, place, reached); });
        else
          put_on_path(lane, problem.target_place[target], weight * problem.share[target]);
      }
      alpha[num_alphas - 1][lane] += static_cast<Real>(on_every_class[lane]);
    }
    if (problem.log_similarity)
      for (int64_t v = tree.num_inner - 2; v >= 0; --v)
        alpha[v] += alpha[tree.parent[tree.num_classes + v] - tree.num_classes];
    if (!by_column()) return;
    // The targets' own mass, plus what their columns get like any class.
    for (const OnColumn& own : on_columns) {
      const double spread = problem.log_similarity
                                ? alpha[tree.parent[own.column] - tree.num_classes][own.lane]
                                : on_every_class[own.lane];
      const volatile double as_any = spread * problem.unit[own.column];  // rounded, as reached is
      const double reached = as_any + own.reached;
      mass[own.column][own.lane] = static_cast<Real>(problem.keep[own.column] * reached);
    }
    on_columns.clear();
  }

  void put_on_path(int lane, int32_t place, double reached) {
    const double cut = std::isfinite(reached) ? kCut * std::fabs(reached) : 0;
    for (; place < tree.root() && !(std::fabs(reached) <= cut); place = tree.parent[place]) {
      put_at(lane, place, reached);
      reached *= 1 - problem.keep[place];
    }
  }

  void put_at(int lane, int32_t place, double reached) {
    if (place < tree.num_classes)
      put_on_column(lane, place, reached);
    else
      mass[place][lane] += static_cast<Real>(problem.keep[place] * reached);
  }

  // A row has few targets; equal ones are added up before rounding.
  void put_on_column(int lane, int32_t column, double reached) {
    for (auto own = on_columns.rbegin(); own != on_columns.rend() && own->lane == lane; ++own)
      if (own->column == column) {
        own->reached += reached;
        return;
      }
    on_columns.push_back({lane, column, reached});
  }

  // ---- sweeps ----

  template <Kind kKind>
  void sweep_up(Line row_top) {
    if (problem.eps > 0)
      sweep_up<kKind, false>(row_top);
    else
      sweep_up<kKind, true>(row_top);
  }

  template <Kind kKind, bool kLoss>
  void sweep_up(Line row_top) {
    LossMass<kKind, kLoss, Real> passing{tree,
                                         static_cast<const Real*>(problem.kept),
                                         static_cast<const Real*>(problem.handed),
                                         problem.spreads ? kept_unit : nullptr,
                                         alpha,
                                         problem.log_similarity ? 1 : 0,
                                         mass,
                                         row_top};
    sum_exponentials<true, Real, !kLoss>(tree, line, sum, passing);
    total = passing.total;
    loss = passing.loss;
  }

  void lose(Line row_top) {
    double totals[kRows], losses[kRows];
    for (int lane = 0; lane < kRows; ++lane) {
      totals[lane] = total.lane(lane);
      losses[lane] = -loss.lane(lane);
    }
    for (const OnColumn& own : on_columns) {
      const Real logit = load_first(logits.row[own.lane] + own.column, 1)[0];
      const double kept = problem.keep[own.column] * own.reached;
      totals[own.lane] += kept;
      if (kept != 0) losses[own.lane] -= kept * (double(logit) - row_top[own.lane]);
    }
    for (int lane = 0; lane < count; ++lane) {
      const double all = sum[tree.num_inner - 1][lane];
      problem.loss[rows[lane]] = all > 0 ? losses[lane] + totals[lane] * std::log(all) : kNaN;
    }
    for (int lane = 0; lane < kRows; ++lane) line[tree.root()][lane] = totals[lane];
  }

  // Computes the probabilities from the root down and the loss from these, and replaces every mass
  // q by q P / (P + eps).
  void lose_with_eps() {
    const Real eps = static_cast<Real>(problem.eps);
    WideSum<Real> losses, totals;
    const Line all = sum[tree.num_inner - 1];
    p[tree.num_inner - 1] = all > 0 ? broadcast(Real(1)) : broadcast(static_cast<Real>(kNaN));
    for (int64_t v = tree.num_inner - 1; v >= 0; --v) {
      const Line scale = sum[v] == 0 ? Line{} : p[v] / sum[v];
      Line run_loss = {}, run_total = {};
      for (int32_t i = tree.child_ptr[v]; i < tree.child_ptr[v + 1]; ++i) {
        const int32_t c = tree.child[i];
        const Line q = mass[c];
        const Line probability = line[c] * scale;
        if (c >= tree.num_classes) p[c - tree.num_classes] = probability;
        run_loss += q == 0 ? Line{} : q * log_of<Real>(probability + eps);
        mass[c] = q == 0 ? Line{} : q * (probability / (probability + eps));
        run_total += mass[c];
        if ((i - tree.child_ptr[v]) % kRun == kRun - 1 || i + 1 == tree.child_ptr[v + 1]) {
          losses.add(run_loss);
          totals.add(run_total);
          run_loss = run_total = Line{};
        }
      }
    }
    for (int lane = 0; lane < count; ++lane)
      problem.loss[rows[lane]] = all[lane] > 0 ? -losses.lane(lane) : kNaN;
    line[tree.root()] = totals.narrow();
  }

  void write_gradient() {
    const Line pull = line[tree.root()];
    if (problem.mass || by_column())
      pull_down<Real>(tree, line, sum, mass, pull,
                      [&](int32_t column, int64_t) { return mass[column]; });
    else if (problem.spreads)
      pull_down<Real>(tree, line, sum, mass, pull, [&](int32_t column, int64_t v) {
        return alpha[problem.log_similarity ? v : 0] * kept_unit[column];
      });
    else
      pull_down<Real>(tree, line, sum, mass, pull, [](int32_t, int64_t) { return Line{}; });
    for (const OnColumn& own : on_columns)
      line[own.column][own.lane] -= static_cast<Real>(problem.keep[own.column] * own.reached);

    Line factor = {};
    for (int lane = 0; lane < count; ++lane)
      factor[lane] = static_cast<Real>(problem.factor[rows[lane]]);
    store_columns<Stored>(problem.grad, tree.num_classes, rows, count, problem.past_caches,
                          [&](int64_t column) { return line[column] * factor; });
  }
};

}  // namespace

TreeLogLossKernel HACE_PER_ISA(tree_log_loss_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Rows = Block<decltype(stored)>;
    return TreeLogLossKernel{Rows::kRows,
                             sizeof(typename Rows::Line),
                             TreeRow<decltype(stored)>::takes,
                             TreeRow<decltype(stored)>::num_bytes,
                             TreeRow<decltype(stored)>::run,
                             Rows::num_lines,
                             Rows::run};
  });
}

}  // namespace hace
