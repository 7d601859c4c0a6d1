// The interface between the driver of `tree_log_loss` (tree_log_loss.cpp) and its kernels, which
// are compiled once per instruction set (tree_log_loss_kernel.cpp).
#pragma once

#include "element.h"
#include "targets.h"
#include "tree.h"

namespace hace {

// Arrays of numbers in the working type are `const void*` here.
struct TreeLogLossProblem : Targets {
  Tree tree;
  const void* logits;  // (rows, C), unit stride along a row
  int64_t row_stride;
  void* grad;  // (rows, C) contiguous, of the logits' type; null: the loss alone

  const void* kept;          // keep by place
  const void* handed;        // 1 - keep by place
  bool mass_covers_columns;  // every column is the place of a target, and no place that of two
  bool mass_is_by_column;    // the targets are the columns

  // What 1 on every class puts on each place, times the class's weight, once it has risen.
  bool spreads;            // whether anything is put on every class
  const double* reaching;  // by place, for inner places only; null unless soft labels
  const void* kept_unit;   // by place; null unless spreads

  const int32_t* classes_below;  // by place; null unless soft labels

  double eps;
  const double* factor;  // by row: multiplies the gradient
  double* loss;          // by row
  bool past_caches;
};

// What kernels report to the driver: mass on a target without a place, or parents that are not
// those of a tree.
struct TreeLogLossFault {
  int64_t row = -1;
  int64_t target = -1;
  bool is_of_tree = false;
};

struct TreeLogLossKernel {
  int64_t block_rows;
  int64_t line_bytes;
  bool (*takes_row_by_row)(const TreeLogLossProblem&);
  int64_t (*row_bytes)(const TreeLogLossProblem&);
  // Works on one row, in 64-byte aligned memory of row_bytes. False: the row is left to `run`; its
  // gradient may hold anything.
  bool (*run_row)(const TreeLogLossProblem&, int64_t row, void* values, TreeLogLossFault* fault);
  int64_t (*num_lines)(const TreeLogLossProblem&);
  // Works on the `count` given rows, at most block_rows; `lines` is 64-byte aligned memory of
  // num_lines.
  void (*run)(const TreeLogLossProblem&, const int64_t* rows, int64_t count, void* lines,
              TreeLogLossFault* fault);
};

TreeLogLossKernel tree_log_loss_kernel_generic(Element);
TreeLogLossKernel tree_log_loss_kernel_avx2(Element);
TreeLogLossKernel tree_log_loss_kernel_avx512(Element);

}  // namespace hace
