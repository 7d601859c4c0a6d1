// The block kernels of `tree_log_prob` for one instruction set.
//
//   log P_v = (top_v - top_root) + (log sum_v - log sum_root)
//
// with top and sum as in tree_sweeps.h. The backward, for incoming gradients g_v, is the negative
// of what a mass of g_v on every node v pulls; nodes of probability 0 have no mass.
//
// The columns below a mixed node u of a DAG are those of its parts, places of the tree that have no
// column in common: sum_u is the sum of theirs, and what it pulls is what the mass
// g_u sum_t / sum_u pulls on each part t.

#include "tree_log_prob_kernel.h"

#include "per_isa.h"
#include "tree_sweeps.h"

namespace hace {
namespace {

// Takes incoming gradients as mass; what is on places of probability 0 is dropped.
template <typename Real>
struct GivenMass {
  const Tree& tree;
  Vector<Real>* mass;
  WideSum<Real> total = {};
  Vector<Real> run = {};

  void begin(int64_t) {}
  void column(int32_t c, Vector<Real> logit) {
    constexpr Real kNone = -std::numeric_limits<Real>::infinity();
    mass[c] = logit == kNone ? Vector<Real>{} : mass[c];
    run += mass[c];
  }
  void inner(int32_t) {}
  void end_run() {
    total.add(run);
    run = Vector<Real>{};
  }
  void end(int64_t v, Vector<Real>, Vector<Real> sum) {
    const int64_t place = tree.num_classes + v;
    mass[place] = sum == 0 ? Vector<Real>{} : mass[place];
    total.add(mass[place]);
  }
};

template <typename Stored>
struct Block {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int64_t kRows = Lanes<Real>::kCount;

  static int64_t num_places(const TreeLogProbProblem& problem) {
    return problem.tree.num_places() + problem.mixed.count;
  }
  static int64_t num_sums(const TreeLogProbProblem& problem) {
    return problem.tree.num_inner + problem.mixed.count;
  }
  static int64_t forward_lines(const TreeLogProbProblem& problem) {
    return num_places(problem) + num_sums(problem);
  }
  static int64_t backward_lines(const TreeLogProbProblem& problem) {
    return 2 * num_places(problem) + num_sums(problem);
  }

  static void forward(const TreeLogProbProblem& problem, int64_t first, int64_t count,
                      void* lines) {
    const Tree& tree = problem.tree;
    const BlockRows<kRows> rows(first, count);
    Line* const line = static_cast<Line*>(lines);
    Line* const sum = line + num_places(problem);
    load_logits(problem, rows, line);
    NoMass<Real> none;
    sum_exponentials<false, Real>(tree, line, sum, none);
    sum_parts(problem, line, sum);

    const Line top = line[tree.root()];
    const Line log_total = log_of<Real>(sum[tree.num_inner - 1]);
    store_columns<Real>(problem.log_prob, tree.num_nodes, rows.row, rows.count, problem.past_caches,
                        [&](int64_t node) {
                          const int64_t place = tree.place[node];
                          if (place < 0) return broadcast(-std::numeric_limits<Real>::infinity());
                          if (place < tree.num_classes) return (line[place] - top) - log_total;
                          const Line log_sum = log_of<Real>(sum[place - tree.num_classes]);
                          return (line[place] - top) + (log_sum - log_total);
                        });
  }

  static void backward(const TreeLogProbProblem& problem, int64_t first, int64_t count,
                       void* lines) {
    const Tree& tree = problem.tree;
    const BlockRows<kRows> rows(first, count);
    Line* const line = static_cast<Line*>(lines);
    Line* const sum = line + num_places(problem);
    Line* const mass = sum + num_sums(problem);
    load_logits(problem, rows, line);
    load_nodes(tree, problem.mixed.count,
               LaneRows<Real>(problem.grad, problem.grad_stride, rows.row, rows.count), mass);
    GivenMass<Real> given{tree, mass};
    if (problem.mixed.count == 0) {
      sum_exponentials<true, Real>(tree, line, sum, given);
    } else {
      sum_exponentials<false, Real>(tree, line, sum, given);
      sum_parts(problem, line, sum);
      given.total.add(hand_to_parts(problem, line, sum, mass).narrow());
      find_shares(tree, line, sum);
    }
    pull_down<Real>(tree, line, sum, mass, given.total.narrow(),
                    [&](int32_t column, int64_t) { return mass[column]; });
    store_columns<Stored>(problem.grad_logits, tree.num_classes, rows.row, rows.count,
                          problem.past_caches, [&](int64_t column) { return -line[column]; });
  }

  // exp(top - of) sum, at a place of the tree.
  static Line share(const Tree& tree, int32_t place, const Line* line, const Line* sum, Line of) {
    const Line e = exp_nonpositive(line[place] - of);
    return place < tree.num_classes ? e : e * sum[place - tree.num_classes];
  }

  // Computes top and sum of mixed nodes.
  static void sum_parts(const TreeLogProbProblem& problem, Line* line, Line* sum) {
    const Tree& tree = problem.tree;
    const MixedNodes& mixed = problem.mixed;
    for (int64_t x = 0; x < mixed.count; ++x) {
      const int32_t first = mixed.part_ptr[x], last = mixed.part_ptr[x + 1];
      Line top = broadcast(std::numeric_limits<Real>::lowest());
      for (int32_t i = first; i < last; ++i) top = max(line[mixed.part[i]], top);
      WideSum<Real> wide;
      for (int32_t i = first; i < last; ++i) wide.add(share(tree, mixed.part[i], line, sum, top));
      line[tree.num_places() + x] = top;
      sum[tree.num_inner + x] = wide.narrow();
    }
  }

  // Hands the mass on mixed nodes to their parts, in proportion; returns its total.
  static WideSum<Real> hand_to_parts(const TreeLogProbProblem& problem, const Line* line,
                                     const Line* sum, Line* mass) {
    const Tree& tree = problem.tree;
    const MixedNodes& mixed = problem.mixed;
    WideSum<Real> total;
    for (int64_t x = 0; x < mixed.count; ++x) {
      const Line of_x = sum[tree.num_inner + x], top = line[tree.num_places() + x];
      const Line q = of_x == 0 ? Line{} : mass[tree.num_places() + x];
      if (!any(q != 0)) continue;
      total.add(q);
      const Line scale = of_x == 0 ? Line{} : q / of_x;
      for (int32_t i = mixed.part_ptr[x]; i < mixed.part_ptr[x + 1]; ++i)
        mass[mixed.part[i]] += share(tree, mixed.part[i], line, sum, top) * scale;
    }
    return total;
  }

  // Computes the shares that sum_exponentials<true> stores, after sum_exponentials<false>.
  static void find_shares(const Tree& tree, Line* line, const Line* sum) {
    for (int64_t v = 0; v < tree.num_inner; ++v)
      for (int32_t i = tree.child_ptr[v]; i < tree.child_ptr[v + 1]; ++i)
        line[tree.child[i]] = share(tree, tree.child[i], line, sum, line[tree.num_classes + v]);
  }

  static void load_logits(const TreeLogProbProblem& problem, const BlockRows<kRows>& rows,
                          Line* line) {
    const LaneRows<Stored> logits(problem.logits, problem.row_stride, rows.row, rows.count);
    load_columns(logits, problem.tree.num_classes, [&](int64_t c, Line x) { line[c] = x; });
  }
};

}  // namespace

TreeLogProbKernel HACE_PER_ISA(tree_log_prob_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Rows = Block<decltype(stored)>;
    return TreeLogProbKernel{Rows::kRows,         sizeof(typename Rows::Line),
                             Rows::forward_lines, Rows::backward_lines,
                             Rows::forward,       Rows::backward};
  });
}

}  // namespace hace
