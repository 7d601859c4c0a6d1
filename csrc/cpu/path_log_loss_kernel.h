// The interface between the driver of `path_log_loss` (path_log_loss.cpp) and its row kernels,
// which are compiled once per instruction set (path_log_loss_kernel.cpp). Plain data and functions,
// without torch.
#pragma once

#include <cstdint>

#include "element.h"
#include "ring_words.h"

namespace hace {

// The rows to work on. Strides and offsets count elements and are 64-bit.
struct PathLogLossProblem {
  const void* logits;  // (rows, columns), unit stride along a row
  int64_t row_stride;
  int64_t columns;
  void* grad;  // (rows, columns) contiguous, of the logits' type; null: the loss alone
  // The path table: entries ptr[t] .. ptr[t + 1] hold target t's nested intervals of class
  // positions, innermost first, and their weights.
  const int64_t* ptr;
  const int32_t* start;
  const int32_t* stop;
  const double* weight;
  const int32_t* order;     // position -> column; null: positions are columns
  const int32_t* position;  // column -> position; null likewise
  RingWords rings;
  double entropy;  // weight of sum_j p_j log p_j beside the log-losses
  double eps;
  // Per row: the target, the factor of the row's gradient (0: the row does not count and is not
  // read), and where its loss is written.
  const int64_t* target;
  const double* factor;
  double* loss;
  int64_t most_intervals_in_lanes;  // of a path, if rows go by lanes; 0: they do not
  bool past_caches;                 // the gradient is too large for the caches
};

// Scratch for one row at a time, reused from row to row.
struct PathLogLossWorkspace {
  void* values;  // plan_values() elements of the working type, 64-byte aligned
  void* plan;    // plan_bytes() bytes, 64-byte aligned
};

// A row is worked on in stages (path_plan.h). The units of a stage are independent of each other,
// so that threads can take either whole rows or units of one row, with the same result to the last
// bit.
struct PathLogLossKernel {
  // Works on units [first, last) of a stage of the row whose plan is in the workspace.
  void (*run_stage)(const PathLogLossProblem&, PathLogLossWorkspace&, int stage, int64_t first,
                    int64_t last);
  // Works on all stages of rows [first, last); `first` is a multiple of rows_at_a_time.
  void (*run_rows)(const PathLogLossProblem&, int64_t first, int64_t last, PathLogLossWorkspace&);
};

// One definition per compiled instruction set.
PathLogLossKernel path_log_loss_kernel_generic(Element);
PathLogLossKernel path_log_loss_kernel_avx2(Element);
PathLogLossKernel path_log_loss_kernel_avx512(Element);

}  // namespace hace
