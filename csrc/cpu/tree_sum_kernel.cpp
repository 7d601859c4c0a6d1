// The block kernels of `tree_sum_up` and `tree_sum_down` for one instruction set.
//
// Memory traffic of a block of rows: values and sums once each; every place's line is visited
// twice.

#include "tree_sum_kernel.h"

#include "per_isa.h"
#include "tree_sum_strips.h"
#include "tree_sweeps.h"

namespace hace {
namespace {

template <typename Stored>
struct Block {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int64_t kRows = Lanes<Real>::kCount;

  static void up(const TreeSumProblem& problem, int64_t first, int64_t count, void* lines) {
    const Tree& tree = problem.tree;
    const BlockRows<kRows> rows(first, count);
    Line* line = static_cast<Line*>(lines);
    const LaneRows<Stored> values(problem.values, problem.stride, rows.row, rows.count);
    load_columns(values, tree.num_classes, [&](int64_t column, Line x) { line[column] = x; });
    sum_up<Real>(tree, line);
    sum_parts(problem, line);
    store_columns<Stored>(
        problem.sums, tree.num_nodes, rows.row, rows.count, problem.past_caches,
        [&](int64_t node) { return tree.place[node] < 0 ? Line{} : line[tree.place[node]]; });
  }

  static void down(const TreeSumProblem& problem, int64_t first, int64_t count, void* lines) {
    const Tree& tree = problem.tree;
    const BlockRows<kRows> rows(first, count);
    Line* line = static_cast<Line*>(lines);
    const LaneRows<Stored> values(problem.values, problem.stride, rows.row, rows.count);
    load_nodes(tree, problem.mixed.count, values, line);
    hand_to_parts(problem, line);
    sum_down<Real>(tree, line);
    store_columns<Stored>(problem.sums, tree.num_classes, rows.row, rows.count, problem.past_caches,
                          [&](int64_t column) { return line[column]; });
  }

 private:
  static void sum_parts(const TreeSumProblem& problem, Line* line) {
    const MixedNodes& mixed = problem.mixed;
    for (int64_t x = 0; x < mixed.count; ++x) {
      WideSum<Real> wide;
      Line narrow = {};
      const int32_t first = mixed.part_ptr[x], last = mixed.part_ptr[x + 1];
      for (int32_t i = first; i < last; ++i) {
        narrow += line[mixed.part[i]];
        if ((i - first) % kRun != kRun - 1) continue;
        wide.add(narrow);
        narrow = Line{};
      }
      wide.add(narrow);
      line[problem.tree.num_places() + x] = wide.narrow();
    }
  }

  static void hand_to_parts(const TreeSumProblem& problem, Line* line) {
    const MixedNodes& mixed = problem.mixed;
    for (int64_t x = 0; x < mixed.count; ++x) {
      const Line value = line[problem.tree.num_places() + x];
      for (int32_t i = mixed.part_ptr[x]; i < mixed.part_ptr[x + 1]; ++i)
        line[mixed.part[i]] += value;
    }
  }
};

template <typename Rows>
TreeSumKernel kernel_of() {
  return {Rows::kRows, sizeof(typename Rows::Line), Rows::up, Rows::down};
}

}  // namespace

TreeSumKernel HACE_PER_ISA(tree_sum_kernel_)(Element element, bool side_by_side) {
  return for_element(element, [&](auto stored) {
    using Stored = decltype(stored);
    return side_by_side ? kernel_of<StripBlock<Stored>>() : kernel_of<Block<Stored>>();
  });
}

}  // namespace hace
