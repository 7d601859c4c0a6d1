// The block kernels of `dag_log_loss` for one instruction set: as many rows at a time as a vector
// has lanes, for targets with mass anywhere.
//
// A tree of the DAG's links (SpanningTree) is swept as in tree_log_loss_kernel.cpp, whose terms are
// used here. The columns below a mixed node u are those of its parts, places of the tree that have
// no column in common, so that
//
//   S_u = sum over parts t of S_t
//   d/dz_j (-q_u log P_u) = q_u p_j - (q_u S_t / S_u) exp(z_j - lse_t)    for the part t above j
//
// and its gradient is that of the mass q_u S_t / S_u on each part: every share is at most 1, and
// nothing is subtracted. Each place and each mixed node has a maximum of its own.
//
// Memory traffic of a block of rows in float32: the logits are read once and the gradient is
// written once. The lines of all places are visited once upwards and once downwards, in the L2 or
// L3 cache.

#include "dag_block_kernel.h"

#include <cmath>
#include <type_traits>

#include "dag_lanes.h"
#include "dag_mass.h"
#include "per_isa.h"
#include "tree_sweeps.h"

namespace hace {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <typename Real>
struct DagLines {
  using Line = Vector<Real>;

  Line* line;  // by place of the tree
  Line* sum;   // by inner place
  Line* mass;  // by place, mixed ones included: what reaches it, then what it keeps
  Line* top;   // by part: the largest logit
  Line* p;     // by inner place, with eps only
  Line* end;

  DagLines(const DagBlockProblem& problem, void* memory) {
    const Tree& tree = problem.spanning.tree;
    line = static_cast<Line*>(memory);
    sum = line + tree.num_places();
    mass = sum + tree.num_inner;
    top = mass + problem.spanning.num_places();
    p = top + problem.num_part_places;
    end = p + (problem.eps > 0 ? tree.num_inner : 0);
  }
};

// Adds up the loss and W at the places of the tree during the upward sweep, and stores what mixed
// nodes need.
template <bool kLoss, typename Real, typename Keeps>
struct DagLoss {
  using Line = Vector<Real>;

  const Tree& tree;
  const int32_t* part_index;
  const DagLines<Real>& lines;
  const Keeps& keeps;
  const Line row_top;
  WideSum<Real> total = {}, loss = {};
  Line run_total = {}, run_loss = {};

  void begin(int64_t) {}
  void inner(int32_t) {}

  void column(int32_t c, Line logit) {
    if (part_index[c] >= 0) lines.top[part_index[c]] = logit;
    const Line q = lines.mass[c] = keeps(c);
    run_total += q;
    if constexpr (kLoss) run_loss += weighted(q, logit - row_top);
  }

  void end_run() {
    total.add(run_total);
    if constexpr (kLoss) loss.add(run_loss);
    run_total = run_loss = Line{};
  }

  void end(int64_t v, Line top, Line sum) {
    if (v == tree.num_inner - 1) return;  // the virtual root, which is not a node
    const int64_t place = tree.num_classes + v;
    if (part_index[place] >= 0) lines.top[part_index[place]] = top;
    const Line q = lines.mass[place] = keeps(place);
    total.add(q);
    if constexpr (kLoss) loss.add(weighted(q, (top - row_top) + log_of<Real>(sum)));
  }

  // 0 log 0 is 0.
  static Line weighted(Line q, Line log_p) { return q == 0 ? Line{} : q * log_p; }
};

template <typename Stored>
void run_lanes(const DagBlockProblem& problem, const DagBlockRows& rows, void* memory,
               bool* left_out, TreeLogLossFault* fault) {
  const auto run = [&](auto kind) {
    DagLanes<Stored, decltype(kind)::value>(problem, rows, memory, left_out).run(fault);
  };
  if (problem.mass)
    run(std::integral_constant<DagTargets, DagTargets::kMass>{});
  else if (problem.kept_unit)
    run(std::integral_constant<DagTargets, DagTargets::kEverywhere>{});
  else
    run(std::integral_constant<DagTargets, DagTargets::kOwn>{});
}

template <typename Stored>
int64_t num_lanes_lines(const DagBlockProblem& problem) {
  return problem.mass ? DagLanes<Stored, DagTargets::kMass>::num_lines(problem)
                      : DagLanes<Stored, DagTargets::kOwn>::num_lines(problem);
}

template <typename Stored>
struct DagBlock {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int kRows = Lanes<Real>::kCount;

  const DagBlockProblem& problem;
  const DagBlockRows& rows;
  const SpanningTree& spanning;
  const Tree& tree;
  const int count;
  const DagLines<Real> lines;
  DagMass<Real> given;
  Line row_top = broadcast(std::numeric_limits<Real>::lowest());
  WideSum<Real> total = {}, loss = {};

  static int64_t num_lines(const DagBlockProblem& problem) {
    const DagLines<Real> lines(problem, nullptr);
    return lines.end - lines.line;
  }

  static void run(const DagBlockProblem& problem, const DagBlockRows& rows, void* memory,
                  TreeLogLossFault* fault) {
    DagBlock(problem, rows, memory).run(fault);
  }

  DagBlock(const DagBlockProblem& problem, const DagBlockRows& rows, void* memory)
      : problem(problem),
        rows(rows),
        spanning(problem.spanning),
        tree(problem.spanning.tree),
        count(static_cast<int>(rows.count)),
        lines(problem, memory),
        given(problem, rows, lines.mass) {}

  void run(TreeLogLossFault* fault) {
    if (problem.mass) {
      given.load(fault);
      given.rise();
      sweep([this](int64_t place) { return given.kept(place); });
    } else {
      place_indices();
      sweep([this](int64_t place) { return lines.mass[place]; });
    }
    for (int lane = 0; lane < count; ++lane) {
      const double all = lines.sum[tree.num_inner - 1][lane];
      const double of_all = problem.eps > 0 ? 0 : total.lane(lane) * std::log(all);
      problem.loss[rows.row[lane]] = all > 0 ? of_all - loss.lane(lane) : kNaN;
    }
    if (problem.grad) write_gradient();
  }

  // ---- targets ----

  void place_indices() {
    Line alpha = {};  // what every class gets
    for (int lane = 0; lane < count; ++lane)
      alpha[lane] = static_cast<Real>(rows.on_every_class[lane]);
    const Real* const kept_unit = static_cast<const Real*>(problem.kept_unit_of_line);
    for (int64_t place = 0; place < spanning.num_places(); ++place)
      lines.mass[place] = kept_unit ? alpha * kept_unit[place] : Line{};
    for (int64_t i = 0; i < rows.num_own; ++i) {
      const DagOwn& own = rows.own[i];
      lines.mass[own.place][own.lane] = static_cast<Real>(own.q);
    }
  }

  // ---- sweeps ----

  // keeps(place) gives what a place keeps of the mass in its line.
  template <typename Keeps>
  void sweep(const Keeps& keeps) {
    const LaneRows<Stored> logits(problem.logits, problem.row_stride, rows.row, count);
    load_columns(logits, tree.num_classes, [&](int64_t column, Line x) {
      row_top = max(x, row_top);
      lines.line[column] = x;
    });
    if (problem.eps > 0) {
      sweep_up<false>(keeps);
      total = {};
      lose_with_eps();
    } else {
      sweep_up<true>(keeps);
    }
    for (int64_t x = 0; x < spanning.num_mixed; ++x) {
      const Line q = keeps(tree.num_places() + x);
      if (any(q != 0)) hand_to_parts(x, q);
    }
  }

  template <bool kLoss, typename Keeps>
  void sweep_up(const Keeps& keeps) {
    DagLoss<kLoss, Real, Keeps> passing{tree, problem.part_index, lines, keeps, row_top};
    sum_exponentials<true, Real, !kLoss>(tree, lines.line, lines.sum, passing);
    total = passing.total;
    loss = passing.loss;
  }

  // Computes the probabilities from the root down and the loss from these, and replaces every mass
  // q by q P / (P + eps).
  void lose_with_eps() {
    Line* const p = lines.p;
    const Line all = lines.sum[tree.num_inner - 1];
    p[tree.num_inner - 1] = all > 0 ? broadcast(Real(1)) : broadcast(static_cast<Real>(kNaN));
    for (int64_t v = tree.num_inner - 1; v >= 0; --v) {
      const Line scale = lines.sum[v] == 0 ? Line{} : p[v] / lines.sum[v];
      for (int32_t i = tree.child_ptr[v]; i < tree.child_ptr[v + 1]; ++i) {
        const int32_t c = tree.child[i];
        const Line probability = lines.line[c] * scale;
        if (c >= tree.num_classes) p[c - tree.num_classes] = probability;
        lines.mass[c] = faded(lines.mass[c], probability);
      }
    }
  }

  // Adds the loss of mass q at a node of this probability; returns what of q still pulls.
  Line faded(Line q, Line probability) {
    const Line with_eps = probability + static_cast<Real>(problem.eps);
    const Line left = q == 0 ? Line{} : q * (probability / with_eps);
    loss.add(q == 0 ? Line{} : q * log_of<Real>(with_eps));
    total.add(left);
    return left;
  }

  // Hands the mass q that mixed node x keeps to its parts.
  void hand_to_parts(int64_t x, Line q) {
    const int32_t* const begin = spanning.part + spanning.part_ptr[x];
    const int32_t* const end = spanning.part + spanning.part_ptr[x + 1];
    Line top = broadcast(std::numeric_limits<Real>::lowest());
    for (const int32_t* part = begin; part < end; ++part)
      top = max(lines.top[problem.part_index[*part]], top);
    const auto share = [&](int32_t part) {
      const Line of_part = lines.top[problem.part_index[part]];
      const Line e = exp_of_difference(of_part, top, of_part - top);
      return part < tree.num_classes ? e : e * lines.sum[part - tree.num_classes];
    };
    WideSum<Real> wide;
    int64_t columns = 0;
    for (const int32_t* part = begin; part < end; ++part) {
      wide.add(share(*part));
      columns += tree.num_columns[*part];
    }
    const Line sum = wide.narrow();
    if (problem.eps > 0) {
      const Line all = lines.sum[tree.num_inner - 1];
      q = faded(q, exp_of_difference(top, row_top, top - row_top) * (sum / all));
    } else {
      loss.add(q == 0 ? Line{} : q * ((top - row_top) + log_of<Real>(sum)));
      total.add(q);
    }
    const auto dead = sum == 0;
    const Line scale = dead ? Line{} : q / sum;
    for (const int32_t* part = begin; part < end; ++part) lines.mass[*part] += share(*part) * scale;
    if (__builtin_expect(any(dead), 0))  // evenly, as inside of a tree
      for (const int32_t* part = begin; part < end; ++part)
        lines.mass[*part] +=
            dead ? q * (Real(tree.num_columns[*part]) / static_cast<Real>(columns)) : Line{};
  }

  void write_gradient() {
    pull_down<Real>(tree, lines.line, lines.sum, lines.mass, total.narrow(),
                    [&](int32_t column, int64_t) { return lines.mass[column]; });
    Line factor = {};
    for (int lane = 0; lane < count; ++lane)
      factor[lane] = static_cast<Real>(problem.factor[rows.row[lane]]);
    store_columns<Stored>(problem.grad, tree.num_classes, rows.row, count, problem.past_caches,
                          [&](int64_t column) { return lines.line[column] * factor; });
  }
};

}  // namespace

DagBlockKernel HACE_PER_ISA(dag_block_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Stored = decltype(stored);
    using Block = DagBlock<Stored>;
    return DagBlockKernel{Block::kRows, sizeof(typename Block::Line), Block::num_lines,
                          Block::run,   num_lanes_lines<Stored>,      run_lanes<Stored>};
  });
}

}  // namespace hace
