// The weights of rows, the reduction of their losses, and the scaling of their gradients. Targets
// are read only on the device, so that the host never has to wait. A row whose target is not valid
// gives NaN.
#pragma once

#include "element.cuh"
#include "reduce.cuh"

namespace hace {

constexpr int kReduceThreads = 1024;

// The factor of a row's loss: its target's weight (null: 1), or 0 if the row is ignored.
__device__ __forceinline__ double weight_of(int64_t target, const double* target_weight,
                                            int64_t num_targets, int64_t ignore_index) {
  if (target == ignore_index) return 0;
  const bool valid = target >= 0 && target < num_targets;
  return valid && target_weight ? target_weight[target] : 1;
}

// Stores what `mean` divides by, the sum of the rows' weights; without targets these are 1. One
// block.
static __global__ void __launch_bounds__(kReduceThreads)
    weigh_kernel(const int64_t* target, const double* target_weight, int64_t num_rows,
                 int64_t num_targets, int64_t ignore_index, double* divisor) {
  double total = 0;
  for (int64_t row = threadIdx.x; row < num_rows; row += kReduceThreads)
    total += target ? weight_of(target[row], target_weight, num_targets, ignore_index) : 1;
  total = block_sum(total);
  if (threadIdx.x == 0) *divisor = total;
}

// Adds up the rows' weighted losses, and divides by the divisor if there is one. One block.
template <typename Real>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const Real* row_loss, const double* divisor, int64_t num_rows, Real* loss) {
  double total = 0;
  for (int64_t row = threadIdx.x; row < num_rows; row += kReduceThreads) total += row_loss[row];
  total = block_sum(total);
  if (threadIdx.x == 0) *loss = static_cast<Real>(divisor ? total / *divisor : total);
}

// The rows of a loss, and where their losses and gradients go.
template <typename Stored>
struct LossRows {
  using Real = work_t<Stored>;

  const Stored* logits;  // (rows, columns), unit stride along a row
  int64_t row_stride;
  int64_t num_rows;
  Stored* grad;           // (rows, columns) contiguous; null: the loss alone
  Real* row_loss;         // (rows); null: the gradient alone
  const double* divisor;  // of the rows' gradients; null: 1
  const Real* grad_loss;  // the incoming gradient; null: 1
  int64_t grad_loss_step;
  double eps;

  // The factor of the gradient of a row's loss; 0 for a row of weight 0, whatever comes in.
  __device__ __forceinline__ double gradient_factor(double weight, int64_t row) const {
    if (weight == 0) return 0;
    if (divisor && *divisor != 0) weight /= *divisor;
    return grad_loss ? weight * static_cast<double>(grad_loss[row * grad_loss_step]) : weight;
  }
};

}  // namespace hace
