// The interface between the driver of `tree_log_prob` and `dag_log_prob` (tree_log_prob.cpp) and
// their kernels, which are compiled once per instruction set (tree_log_prob_kernel.cpp).
#pragma once

#include "element.h"
#include "tree.h"

namespace hace {

struct TreeLogProbProblem {
  Tree tree;
  MixedNodes mixed;
  const void* logits;  // (rows, C), unit stride along a row
  int64_t row_stride;
  void* log_prob;       // (rows, N) contiguous, of the working type
  const void* grad;     // (rows, N) likewise, backward only
  int64_t grad_stride;  // of its rows
  void* grad_logits;    // (rows, C) contiguous, of the logits' type
  bool past_caches;
};

// The next `count` rows from `first` on, at most `block_rows` at a time; `lines` has 64-byte
// aligned memory of that many lines of line_bytes.
struct TreeLogProbKernel {
  int64_t block_rows;
  int64_t line_bytes;
  int64_t (*forward_lines)(const TreeLogProbProblem&);
  int64_t (*backward_lines)(const TreeLogProbProblem&);
  void (*forward)(const TreeLogProbProblem&, int64_t first, int64_t count, void* lines);
  void (*backward)(const TreeLogProbProblem&, int64_t first, int64_t count, void* lines);
};

TreeLogProbKernel tree_log_prob_kernel_generic(Element);
TreeLogProbKernel tree_log_prob_kernel_avx2(Element);
TreeLogProbKernel tree_log_prob_kernel_avx512(Element);

}  // namespace hace
