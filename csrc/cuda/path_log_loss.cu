// `path_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// path_log_loss.cuh.

#include <tuple>

#include "../path_log_loss_arguments.h"
#include "path_log_loss.cuh"
#include "row_reduction.h"

namespace hace {
namespace {

void check_devices(const PathLogLossCall& call) {
  const auto check = [&](const char* what, const Tensor& tensor) {
    check_device("path_log_loss", what, tensor, call.logits);
  };
  check("target", call.target);
  for (const Tensor& tensor : call.table) check("the path table", tensor);
  if (call.target_weight) check("target_weight", *call.target_weight);
}

// Launches everything. `loss` is reduced as the call says; either output may be null.
void run(const PathLogLossCall& call, const Tensor* grad_loss, Tensor* loss, Tensor* grad) {
  const PathArrays paths = check(call);
  check_devices(call);
  const Tensor& logits = call.logits;
  STD_TORCH_CHECK(logits.size(1) < (int64_t{1} << 31) - kStrip, "path_log_loss: rows of ",
                  logits.size(1), " columns are too long");
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const int64_t num_rows = logits.size(0), num_targets = paths.num_targets;

  for_element(element_of(logits), [&](auto stored) {
    using Stored = decltype(stored);
    using Real = work_t<Stored>;
    PathLogLossProblem<Stored> problem = {};
    problem.logits = static_cast<const Stored*>(logits.const_data_ptr());
    problem.row_stride = logits.stride(0);
    problem.num_rows = num_rows;
    problem.columns = static_cast<int>(logits.size(1));
    problem.ptr = paths.ptr;
    problem.start = paths.start;
    problem.stop = paths.stop;
    problem.weight = paths.weight;
    problem.order = paths.order;
    problem.num_targets = num_targets;
    problem.max_entries = static_cast<int>(call.max_entries);
    problem.target = call.target.const_data_ptr<int64_t>();
    problem.target_weight =
        call.target_weight ? call.target_weight->const_data_ptr<double>() : nullptr;
    problem.ignore_index = call.ignore_index;
    problem.entropy = call.entropy;
    problem.eps = call.eps;
    if (grad) problem.grad = static_cast<Stored*>(grad->mutable_data_ptr());
    if (grad_loss) {
      problem.grad_loss = static_cast<const Real*>(grad_loss->const_data_ptr());
      problem.grad_loss_step = grad_loss->dim() ? grad_loss->stride(0) : 0;
    }

    const PathLogLossPlan plan = plan_path_log_loss(problem, here.device());
    const Tensor memory = scratch(logits, plan.memory_values, loss_type(logits));
    RowReduction<Real> reduction(logits, loss, call.reduction);
    problem.row_loss = reduction.row_loss();
    if (call.reduction == kMean)
      problem.divisor = reduction.weigh(problem.target, problem.target_weight, num_targets,
                                        call.ignore_index, stream);
    run_path_log_loss(problem, plan, static_cast<Real*>(memory.mutable_data_ptr()), stream);
    reduction.reduce(stream);
  });
  check_launches("path_log_loss", logits);
}

std::tuple<Tensor, Tensor> path_log_loss(const PathLogLossCall& call, bool with_grad) {
  check_rows("path_log_loss", call.logits);
  Tensor loss = new_loss(call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, with_grad);
  run(call, nullptr, &loss, with_grad ? &grad : nullptr);
  return {loss, grad};
}

Tensor path_log_loss_backward(const Tensor& grad_loss, const PathLogLossCall& call) {
  check_rows("path_log_loss", call.logits);
  check_incoming(grad_loss, call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, true);
  run(call, &grad_loss, nullptr, &grad);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("path_log_loss", &boxed_loss<PathLogLossCall, path_log_loss>);
  m.impl("path_log_loss_backward", &boxed_backward<PathLogLossCall, path_log_loss_backward>);
}

}  // namespace hace
