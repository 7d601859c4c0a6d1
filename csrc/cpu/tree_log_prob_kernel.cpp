// The block kernels of `tree_log_prob` for one instruction set.
//
//   log P_v = (top_v - top_root) + (log sum_v - log sum_root)
//
// with top and sum as in tree_sweeps.h. The backward, for incoming gradients g_v, is minus what a
// mass of g_v on every node pulls; nodes of probability 0 have none.

#include "tree_log_prob_kernel.h"

#include "per_isa.h"
#include "tree_sweeps.h"

namespace hace {
namespace {

// Incoming gradients as mass: what lies on places of probability 0 goes.
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

  static int64_t forward_lines(const Tree& tree) { return tree.num_places() + tree.num_inner; }
  static int64_t backward_lines(const Tree& tree) { return 2 * tree.num_places() + tree.num_inner; }

  static void forward(const TreeLogProbProblem& problem, int64_t first, int64_t count,
                      void* lines) {
    const Tree& tree = problem.tree;
    const BlockRows<kRows> rows(first, count);
    Line* const line = static_cast<Line*>(lines);
    Line* const sum = line + tree.num_places();
    load_logits(problem, rows, line);
    NoMass<Real> none;
    sum_exponentials<false, Real>(tree, line, sum, none);

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
    Line* const sum = line + tree.num_places();
    Line* const mass = sum + tree.num_inner;
    load_logits(problem, rows, line);
    load_nodes(tree, LaneRows<Real>(problem.grad, problem.grad_stride, rows.row, rows.count), mass);
    GivenMass<Real> given{tree, mass};
    sum_exponentials<true, Real>(tree, line, sum, given);
    pull_down<Real>(tree, line, sum, mass, given.total.narrow(),
                    [&](int32_t column, int64_t) { return mass[column]; });
    store_columns<Stored>(problem.grad_logits, tree.num_classes, rows.row, rows.count,
                          problem.past_caches, [&](int64_t column) { return -line[column]; });
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
