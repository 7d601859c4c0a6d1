// The kernels of `tree_linear_hand_down` and `tree_linear_gather_up` for one instruction set. The
// lanes of a vector are neighbouring columns of a row.
//
// Memory traffic of a row: its columns once, and their parents (4 bytes each), which all rows
// share.

#include "tree_linear_kernel.h"

#include <cstring>

#include "of_parents.h"
#include "per_isa.h"
#include "sums_by_parent.h"

namespace hace {
namespace {

template <typename Real>
struct TreeLinearRows {
  using Line = Vector<Real>;
  using Links = ParentLinks<Real>;
  static constexpr int kLanes = Lanes<Real>::kCount;
  // How many rows share the work on the columns' parents.
  static constexpr int kRows = 4;

  // Numbers of inner places may be read a vector beyond the last one.
  static int64_t padded(const Tree& tree) {
    return (tree.num_inner + 2 * kLanes) / kLanes * kLanes;
  }
  static int64_t num_bytes(const Tree& tree) { return kRows * padded(tree) * sizeof(double); }

  static void hand_down(const TreeLinearProblem& problem, int64_t first, int64_t last,
                        void* scratch) {
    for (; first + kRows <= last; first += kRows) hand_down<kRows>(problem, first, scratch);
    for (; first < last; ++first) hand_down<1>(problem, first, scratch);
  }
  static void gather_up(const TreeLinearProblem& problem, int64_t first, int64_t last,
                        void* scratch) {
    for (; first + kRows <= last; first += kRows) gather_up<kRows>(problem, first, scratch);
    for (; first < last; ++first) gather_up<1>(problem, first, scratch);
  }

 private:
  template <int kCount>
  static void hand_down(const TreeLinearProblem& problem, int64_t first, void* scratch) {
    const Tree& tree = problem.tree;
    const Links links = Links::of_columns(tree);
    Real* const numbers = static_cast<Real*>(scratch);
    std::memset(numbers, 0, kCount * padded(tree) * sizeof(Real));
    const Real* above[kCount];
    const Real* own[kCount];
    Real* columns[kCount];
    for (int k = 0; k < kCount; ++k) {
      Real* const of_row = numbers + k * padded(tree);
      above[k] = of_row;
      own[k] = static_cast<const Real*>(problem.own) + (first + k) * problem.own_stride;
      columns[k] = static_cast<Real*>(problem.columns) + (first + k) * problem.column_stride;
      const Real* const inner =
          static_cast<const Real*>(problem.inner) + (first + k) * problem.inner_stride;
      for_nodes(problem, [&](int64_t i, int64_t v) { of_row[v] = inner[i]; });
      add_down(tree, of_row);
    }
    for_columns(tree, [&](int64_t c, auto count) {
      Line x[kCount];
      of_parents<Real, kCount>(above, links.at(c, count), x);
      if (problem.own)
        for (int k = 0; k < kCount; ++k) x[k] += load_first(own[k] + c, count);
      for (int k = 0; k < kCount; ++k) store_first(columns[k] + c, x[k], count);
    });
  }

  template <int kCount>
  static void gather_up(const TreeLinearProblem& problem, int64_t first, void* scratch) {
    const Tree& tree = problem.tree;
    const Links links = Links::of_columns(tree);
    double* const numbers = static_cast<double*>(scratch);
    std::memset(numbers, 0, kCount * padded(tree) * sizeof(double));
    double* below[kCount];
    const Real* columns[kCount];
    Real* own[kCount];
    for (int k = 0; k < kCount; ++k) {
      below[k] = numbers + k * padded(tree);
      columns[k] = static_cast<const Real*>(problem.columns) + (first + k) * problem.column_stride;
      own[k] = static_cast<Real*>(problem.own) + (first + k) * problem.own_stride;
    }
    SumsByParent<Real, kCount> by_parent(below);
    for_columns(tree, [&](int64_t c, auto count) {
      Line x[kCount];
      for (int k = 0; k < kCount; ++k) x[k] = load_first(columns[k] + c, count);
      by_parent.add(links.at(c, count), x);
      if (problem.own)
        for (int k = 0; k < kCount; ++k) store_first(own[k] + c, x[k], count);
    });
    by_parent.end();
    for (int64_t v = 0; v + 1 < tree.num_inner; ++v) {
      const int64_t parent = tree.parent[tree.num_classes + v] - tree.num_classes;
      for (int k = 0; k < kCount; ++k) below[k][parent] += below[k][v];
    }
    for (int k = 0; k < kCount; ++k) {
      Real* const inner = static_cast<Real*>(problem.inner) + (first + k) * problem.inner_stride;
      std::memset(inner, 0, problem.num_inner_nodes * sizeof(Real));
      for_nodes(problem, [&](int64_t i, int64_t v) { inner[i] = static_cast<Real>(below[k][v]); });
    }
  }

  // The nodes that have an inner place; the others have no class below them.
  template <typename Each>
  static void for_nodes(const TreeLinearProblem& problem, Each each) {
    const int32_t* const place = problem.tree.place + problem.first_inner;
    for (int64_t i = 0; i < problem.num_inner_nodes; ++i) {
      const int64_t v = place[i] - problem.tree.num_classes;
      if (v >= 0) each(i, v);
    }
  }

  template <typename Step>
  HACE_ALWAYS_INLINE static void for_columns(const Tree& tree, Step step) {
    int64_t c = 0;
    for (; c + kLanes <= tree.num_classes; c += kLanes)
      step(c, std::integral_constant<int64_t, kLanes>{});
    if (c < tree.num_classes) step(c, tree.num_classes - c);
  }
};

template <typename Real>
TreeLinearKernel kernel_of() {
  using Rows = TreeLinearRows<Real>;
  return {Rows::hand_down, Rows::gather_up, Rows::num_bytes};
}

}  // namespace

TreeLinearKernel HACE_PER_ISA(tree_linear_kernel_)(Element element) {
  return element == Element::kFloat64 ? kernel_of<double>() : kernel_of<float>();
}

}  // namespace hace
