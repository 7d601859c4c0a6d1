// What the driver of `dag_log_loss` (dag_log_loss.cpp) asks of its kernels, which are compiled once
// per instruction set (dag_log_loss_kernel.cpp). Plain data and functions: no torch here.
#pragma once

#include <cstdint>

#include "element.h"

namespace hace {

// A row of logits, cut into pieces of positions: piece i is [bound[i], bound[i + 1]).
struct DagRow {
  const void* logits;    // (C), in columns
  const int32_t* order;  // position -> column; null: the same
  void* exps;            // (C) of the type worked in, by position
  int64_t num_columns;   // C
  int64_t num_pieces;
  const int32_t* bound;  // (num_pieces + 1)
};

struct DagLogLossKernel {
  int64_t real_bytes;  // of a number in the type worked in
  // The largest logit of each piece, and the sum of exp(logit - largest); fills `exps` with these.
  void (*measure)(const DagRow&, double* max, double* sum);
  // Writes the gradient (C), in columns: factor * exp + offset, by piece.
  void (*write)(const DagRow&, const double* factor, const double* offset, void* grad);
};

// One definition per compiled instruction set.
DagLogLossKernel dag_log_loss_kernel_generic(Element);
DagLogLossKernel dag_log_loss_kernel_avx2(Element);
DagLogLossKernel dag_log_loss_kernel_avx512(Element);

}  // namespace hace
