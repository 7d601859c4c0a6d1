// The bindings' side of rows.cuh: the loss's tensors and the launches that reduce it.
#pragma once

#include <tuple>
#include <vector>

#include "device.h"
#include "rows.cuh"

namespace hace {

inline Tensor new_loss(const Tensor& logits, int64_t reduction) {
  const std::vector<int64_t> shape =
      reduction == kNone ? std::vector<int64_t>{logits.size(0)} : std::vector<int64_t>{};
  return new_tensor(logits, shape, loss_type(logits));
}

inline Tensor new_gradient(const Tensor& logits, bool wanted) {
  const std::vector<int64_t> shape =
      wanted ? std::vector<int64_t>{logits.size(0), logits.size(1)} : std::vector<int64_t>{0};
  return new_tensor(logits, shape, logits.scalar_type());
}

inline void check_incoming(const Tensor& grad_loss, const Tensor& logits, int64_t reduction) {
  STD_TORCH_CHECK(grad_loss.dim() == (reduction == kNone ? 1 : 0) &&
                      (reduction != kNone || grad_loss.size(0) == logits.size(0)) &&
                      grad_loss.scalar_type() == loss_type(logits),
                  "grad_loss must have the loss's shape and dtype");
  check_device("backward", "grad_loss", grad_loss, logits);
}

// The incoming gradient and the outputs of a call of a loss or of its backward; null if it has
// none.
struct LossOutputs {
  const Tensor* grad_loss;
  Tensor* loss;  // reduced as the call says
  Tensor* grad;
};

template <typename Stored>
inline void bind_loss(const Tensor& logits, double eps, const LossOutputs& outputs,
                      LossRows<Stored>& rows) {
  rows.logits = static_cast<const Stored*>(logits.const_data_ptr());
  rows.row_stride = logits.stride(0);
  rows.num_rows = logits.size(0);
  rows.eps = eps;
  if (outputs.grad) rows.grad = static_cast<Stored*>(outputs.grad->mutable_data_ptr());
  if (const Tensor* grad_loss = outputs.grad_loss) {
    rows.grad_loss = static_cast<const work_t<Stored>*>(grad_loss->const_data_ptr());
    rows.grad_loss_step = grad_loss->dim() ? grad_loss->stride(0) : 0;
  }
}

// The op of a loss. `Loss` names the type of its arguments, `Call`, and has two functions: `check`
// throws unless they are valid, and `run` launches everything.
template <typename Loss>
std::tuple<Tensor, Tensor> loss_op(const typename Loss::Call& call, bool with_grad) {
  Loss::check(call);
  Tensor loss = new_loss(call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, with_grad);
  Loss::run(call, {nullptr, &loss, with_grad ? &grad : nullptr});
  return {loss, grad};
}

// The backward of that op.
template <typename Loss>
Tensor loss_backward_op(const Tensor& grad_loss, const typename Loss::Call& call) {
  Loss::check(call);
  check_incoming(grad_loss, call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, true);
  Loss::run(call, {&grad_loss, nullptr, &grad});
  return grad;
}

// Where the rows' losses are stored, and their reduction to the loss. `loss` is null in a backward.
template <typename Real>
class RowReduction {
 public:
  RowReduction(const Tensor& logits, Tensor* loss, int64_t reduction)
      : num_rows_(logits.size(0)),
        loss_(loss ? static_cast<Real*>(loss->mutable_data_ptr()) : nullptr),
        reduces_(loss && reduction != kNone),
        memory_(scratch(logits, memory_bytes(reduction), ScalarType::Byte)) {}

  Real* row_loss() const { return reduces_ ? reinterpret_cast<Real*>(divisor() + 1) : loss_; }

  // Launches the sum of the rows' weights, by which `mean` divides; returns where it will be.
  const double* weigh(const int64_t* target, const double* target_weight, int64_t num_targets,
                      int64_t ignore_index, cudaStream_t stream) {
    weighs_ = true;
    HACE_LAUNCH(weigh_kernel, dim3(1), dim3(kReduceThreads), 0, stream, target, target_weight,
                num_rows_, num_targets, ignore_index, divisor());
    return divisor();
  }

  void reduce(cudaStream_t stream) const {
    if (!reduces_) return;
    HACE_LAUNCH((reduce_kernel<Real>), dim3(1), dim3(kReduceThreads), 0, stream, row_loss(),
                weighs_ ? divisor() : nullptr, num_rows_, loss_);
  }

 private:
  // The divisor, and behind it the rows' losses, where they are reduced.
  int64_t memory_bytes(int64_t reduction) const {
    const int64_t rows = reduces_ ? num_rows_ * static_cast<int64_t>(sizeof(Real)) : 0;
    return reduces_ || reduction == kMean ? static_cast<int64_t>(sizeof(double)) + rows : 0;
  }

  double* divisor() const { return static_cast<double*>(memory_.mutable_data_ptr()); }

  int64_t num_rows_;
  Real* loss_;
  bool reduces_, weighs_ = false;
  Tensor memory_;
};

}  // namespace hace
