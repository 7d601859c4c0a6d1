// `tree_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// tree_log_loss.cuh.

#include <optional>
#include <tuple>

#include "../tree_log_loss_arguments.h"
#include "row_reduction.h"
#include "tree_bindings.h"
#include "tree_log_loss.cuh"

namespace hace {
namespace {

constexpr const char* kOp = "tree_log_loss";

void check_devices(const TreeLogLossCall& call) {
  const auto check = [&](const char* what, const Tensor& tensor) {
    check_device(kOp, what, tensor, call.logits);
  };
  for (const std::optional<Tensor>& tensor : {call.mass, call.index, call.index_weight})
    if (tensor) check("the target", *tensor);
  for (const std::optional<Tensor>& tensor : call.table)
    if (tensor) check("the target table", *tensor);
}

// Launches everything. `loss` is reduced as the call says; either output may be null.
void run(const TreeLogLossCall& call, const Tensor* grad_loss, Tensor* loss, Tensor* grad) {
  const Tensor& logits = call.logits;
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const TreeOnDevice on_device(call.tree, call.level_ptr, logits, stream);
  const Tree& tree = on_device.tree;
  const Targets targets = bind_targets(call, tree);
  std::optional<InverseOnDevice> at;
  if (targets.mass)
    at.emplace(tree.num_places(), targets.target_place, targets.num_targets, true, logits, stream);
  const Tensor below =
      scratch(logits, targets.log_similarity ? tree.num_inner : 0, ScalarType::Int);
  const Tensor tables = scratch(logits, table_values(targets, tree), loss_type(logits));

  for_element(element_of(logits), [&](auto stored) {
    using Stored = decltype(stored);
    using Real = work_t<Stored>;
    TreeLogLossProblem<Stored> problem = {};
    problem.tree = tree;
    problem.levels = on_device.levels;
    problem.targets = targets;
    problem.tables = make_tables(
        targets, tree, on_device.levels, static_cast<Real*>(tables.mutable_data_ptr()),
        at ? at->inverse : Inverse{}, static_cast<int32_t*>(below.mutable_data_ptr()), stream);
    problem.num_rows = logits.size(0);
    problem.logits = static_cast<const Stored*>(logits.const_data_ptr());
    problem.row_stride = logits.stride(0);
    problem.eps = call.eps;
    if (grad) problem.grad = static_cast<Stored*>(grad->mutable_data_ptr());
    if (grad_loss) {
      problem.grad_loss = static_cast<const Real*>(grad_loss->const_data_ptr());
      problem.grad_loss_step = grad_loss->dim() ? grad_loss->stride(0) : 0;
    }

    const RowPlan plan =
        plan_rows(tree, problem.num_rows, RowValues<Real>::bytes(targets, tree), here.device());
    const RowScratch memory(logits, plan);
    problem.memory = memory.get();
    RowReduction<Real> reduction(logits, loss, call.reduction);
    problem.row_loss = reduction.row_loss();
    if (call.reduction == kMean)
      problem.divisor = reduction.weigh(targets.single() ? targets.index : nullptr, targets.weight,
                                        targets.num_targets, call.ignore_index, stream);
    launch_rows(tree_log_loss_kernel<Stored>, problem, plan, stream);
    reduction.reduce(stream);
  });
  check_launches(kOp, logits);
}

void check(const TreeLogLossCall& call) {
  check_rows(kOp, call.logits);
  check_tree(kOp, call.tree, call.level_ptr, call.logits);
  check_logits(call, bind_tree(call.tree));
  check_devices(call);
}

std::tuple<Tensor, Tensor> tree_log_loss(const TreeLogLossCall& call, bool with_grad) {
  check(call);
  Tensor loss = new_loss(call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, with_grad);
  run(call, nullptr, &loss, with_grad ? &grad : nullptr);
  return {loss, grad};
}

Tensor tree_log_loss_backward(const Tensor& grad_loss, const TreeLogLossCall& call) {
  check(call);
  check_incoming(grad_loss, call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, true);
  run(call, &grad_loss, nullptr, &grad);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("tree_log_loss", &boxed_loss<TreeLogLossCall, tree_log_loss>);
  m.impl("tree_log_loss_backward", &boxed_backward<TreeLogLossCall, tree_log_loss_backward>);
}

}  // namespace hace
