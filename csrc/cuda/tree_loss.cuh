// What the losses over trees and over DAGs have in common: which rows count, and a row's loss.
#pragma once

#include "../targets.h"
#include "measure.cuh"
#include "rows.cuh"
#include "tree.cuh"

namespace hace {

template <typename Stored>
struct TreeLossRows : LossRows<Stored> {
  Levels levels;  // of the tree
  RowMemory memory;
  Targets targets;
};

// Calls run(row) for each of the block's rows that counts; other rows get loss and gradient 0.
template <typename Stored, typename Run>
__device__ __forceinline__ void for_rows_that_count(const TreeLossRows<Stored>& rows,
                                                    int64_t num_columns, Run run) {
  const Targets& targets = rows.targets;
  for (int64_t row = blockIdx.x; row < rows.num_rows; row += gridDim.x) {
    bool counts = targets.mass != nullptr;
    for (int64_t k = 0; k < targets.num_indices && !counts; ++k)
      counts = targets.index[row * targets.num_indices + k] != targets.ignore_index;
    if (counts) {
      run(row);
    } else {
      if (rows.row_loss && threadIdx.x == 0) rows.row_loss[row] = 0;
      if (rows.grad)
        for (int64_t c = threadIdx.x; c < num_columns; c += blockDim.x)
          rows.grad[row * num_columns + c] = to_stored<Stored>(work_t<Stored>(0));
    }
    __syncthreads();
  }
}

// Stores a row's loss and returns its mass that pulls. `alpha`, the mass on every class, is NaN if
// one of the row's targets is not valid; then both results are NaN.
template <typename Stored>
__device__ __forceinline__ double store_loss(const TreeLossRows<Stored>& rows, int64_t row,
                                             const Measure<work_t<Stored>>& measure, double alpha) {
  const double total = block_sum(measure.total) + 0 * alpha;
  if (rows.row_loss) {
    double loss = block_sum(measure.loss) + 0 * alpha;
    if (!(measure.eps > 0)) loss += total * log_of(static_cast<double>(measure.row.sum));
    if (!(measure.row.sum > 0)) loss = not_a_number<double>();
    if (threadIdx.x == 0) rows.row_loss[row] = static_cast<work_t<Stored>>(loss);
  }
  return total;
}

}  // namespace hace
