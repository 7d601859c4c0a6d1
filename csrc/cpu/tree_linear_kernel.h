// The interface between the drivers of `tree_linear_hand_down` and `tree_linear_gather_up`
// (tree_linear.cpp) and their kernels, which are compiled once per instruction set
// (tree_linear_kernel.cpp).
#pragma once

#include <cstdint>

#include "element.h"
#include "tree.h"

namespace hace {

// Rows of numbers of columns, of the classes themselves, and of the nodes that are no classes,
// which are the nodes from `first_inner` on. Strides are from row to row.
struct TreeLinearProblem {
  Tree tree;
  int64_t first_inner;
  int64_t num_inner_nodes;
  void* columns;  // read upwards, written downwards
  int64_t column_stride;
  void* own;  // or null; the other way round, as `inner`
  int64_t own_stride;
  void* inner;
  int64_t inner_stride;
};

struct TreeLinearKernel {
  // Rows [first, last); `scratch` has num_bytes of 64-byte aligned memory.
  void (*hand_down)(const TreeLinearProblem&, int64_t first, int64_t last, void* scratch);
  void (*gather_up)(const TreeLinearProblem&, int64_t first, int64_t last, void* scratch);
  int64_t (*num_bytes)(const Tree&);
};

// For float32 and float64.
TreeLinearKernel tree_linear_kernel_generic(Element);
TreeLinearKernel tree_linear_kernel_avx2(Element);
TreeLinearKernel tree_linear_kernel_avx512(Element);

}  // namespace hace
