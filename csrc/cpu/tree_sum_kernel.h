// The interface between the drivers of `tree_sum_up`, `tree_sum_down` and the same over DAGs
// (tree_sum.cpp) and their kernels, which are compiled once per instruction set
// (tree_sum_kernel.cpp).
#pragma once

#include "element.h"
#include "tree.h"

namespace hace {

struct TreeSumProblem {
  Tree tree;
  MixedNodes mixed;
  // (rows, C) to go up, (rows, N) to go down; the distance from row to row, or from column to
  // column if rows lie side by side.
  const void* values;
  int64_t stride;
  bool side_by_side;
  const int32_t* node_at;  // the node of each place or -1, if rows lie side by side
  void* sums;              // (rows, N) or (rows, C), contiguous in the same order
  int64_t num_rows;
  bool past_caches;
  bool columns_in_place = false;  // rows side by side, upwards: the values lie where sums belong
};

// The next `count` rows from `first` on, at most `block_rows` at a time; `lines` has a line of
// 64-byte aligned memory for each place, mixed nodes' included.
struct TreeSumKernel {
  int64_t block_rows;
  int64_t line_bytes;
  void (*up)(const TreeSumProblem&, int64_t first, int64_t count, void* lines);
  void (*down)(const TreeSumProblem&, int64_t first, int64_t count, void* lines);
};

TreeSumKernel tree_sum_kernel_generic(Element, bool side_by_side);
TreeSumKernel tree_sum_kernel_avx2(Element, bool side_by_side);
TreeSumKernel tree_sum_kernel_avx512(Element, bool side_by_side);

}  // namespace hace
