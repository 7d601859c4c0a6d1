// The block kernels of `tree_sum_up` and `tree_sum_down` for rows that lie side by side in memory:
// vectors of nodes (N, F) are such rows (F, N). Their columns are read where they lie, a *strip* of
// several vectors at a time.
//
// Only inner places have lines, of a strip each, so that these stay in the caches. Memory traffic
// of a block of rows: values and sums once each.
#pragma once

#include "tree_sum_kernel.h"
#include "tree_sweeps.h"

namespace {

using hace::TreeSumProblem;

template <typename Stored>
class StripBlock {
  using Real = work_t<Stored>;
  static constexpr int kLanes = Lanes<Real>::kCount, kVectors = 8;

 public:
  static constexpr int64_t kRows = kVectors * kLanes;

  struct Line {
    Vector<Real> part[kVectors] = {};

    Line& operator+=(const Line& other) {
      for (int i = 0; i < kVectors; ++i) part[i] += other.part[i];
      return *this;
    }
  };

  static void up(const TreeSumProblem& problem, int64_t first, int64_t count, void* lines) {
    StripBlock(problem, first, count, lines).up();
  }
  static void down(const TreeSumProblem& problem, int64_t first, int64_t count, void* lines) {
    StripBlock(problem, first, count, lines).down();
  }

 private:
  StripBlock(const TreeSumProblem& problem, int64_t first, int64_t count, void* lines)
      : tree_(problem.tree),
        node_at_(problem.node_at),
        values_(static_cast<const Stored*>(problem.values) + first),
        stride_(problem.stride),
        sums_(static_cast<Stored*>(problem.sums) + first),
        sums_stride_(problem.num_rows),
        count_(static_cast<int>(count)),
        columns_in_place_(problem.columns_in_place),
        line_(static_cast<Line*>(lines)) {}

  void up() {
    for (int64_t v = 0; v < tree_.num_inner; ++v) {
      line_[v] = sum_of_children(v);
      write_node(tree_.num_classes + v, line_[v]);
    }
    for (int64_t node = 0; node < tree_.num_nodes; ++node)
      if (tree_.place[node] < 0) write(node, Line{});
  }

  // Also writes the sums of the children that are columns.
  Line sum_of_children(int64_t v) const {
    const int32_t first = tree_.child_ptr[v], last = tree_.child_ptr[v + 1];
    const bool one_run = last - first <= kRun;
    WideSum<Real> wide[kVectors];
    Line narrow;
    for (int32_t i = first; i < last; ++i) {
      const int32_t child = tree_.child[i];
      if (child < tree_.num_classes) {
        const Line line = value(child);
        if (!columns_in_place_) write_node(child, line);
        narrow += line;
      } else {
        narrow += line_[child - tree_.num_classes];
      }
      if (one_run || ((i - first) % kRun != kRun - 1 && i != last - 1)) continue;
      for (int k = 0; k < kVectors; ++k) wide[k].add(narrow.part[k]);
      narrow = Line{};
    }
    if (!one_run)
      for (int k = 0; k < kVectors; ++k) narrow.part[k] = wide[k].narrow();
    return narrow;
  }

  void down() {
    for (int64_t v = tree_.num_inner - 1; v >= 0; --v) line_[v] = sum_above(tree_.num_classes + v);
    for (int64_t column = 0; column < tree_.num_classes; ++column) write(column, sum_above(column));
  }

  // The sum of a place's own value and of those above it.
  Line sum_above(int64_t place) const {
    Line line;
    if (node_at_[place] >= 0) line = value(node_at_[place]);
    if (tree_.parent[place] >= 0) line += line_[tree_.parent[place] - tree_.num_classes];
    return line;
  }

  // Lanes without a row are 0.
  Line value(int64_t column) const {
    const Stored* const from = values_ + column * stride_;
    Line line;
    for (int k = 0; k < kVectors; ++k) {
      const int left = count_ - k * kLanes;
      if (left >= kLanes)
        line.part[k] = load(from + k * kLanes);
      else if (left > 0)
        line.part[k] = load_first(from + k * kLanes, left);
    }
    return line;
  }

  void write_node(int64_t place, const Line& line) const {
    if (node_at_[place] >= 0) write(node_at_[place], line);
  }

  void write(int64_t column, const Line& line) const {
    Stored* const to = sums_ + column * sums_stride_;
    for (int k = 0; k < kVectors; ++k) {
      const int left = count_ - k * kLanes;
      if (left >= kLanes)
        store(to + k * kLanes, line.part[k]);
      else if (left > 0)
        store_first(to + k * kLanes, line.part[k], left);
    }
  }

  const Tree& tree_;
  const int32_t* const node_at_;
  const Stored* const values_;
  const int64_t stride_;
  Stored* const sums_;
  const int64_t sums_stride_;
  const int count_;
  const bool columns_in_place_;
  Line* const line_;
};

}  // namespace
