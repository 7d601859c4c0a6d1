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
  for (const Tensor& tensor : call.targets) check("the target table", tensor);
  for (const Tensor& tensor : call.soft_labels) check("the target table", tensor);
  for (const std::optional<Tensor>& tensor : {call.weight, call.spread})
    if (tensor) check("the target table", *tensor);
}

// Launches everything. `loss` is reduced as the call says; either output may be null.
void run(const TreeLogLossCall& call, const std::vector<int64_t>& level_ptr,
         const Tensor* grad_loss, Tensor* loss, Tensor* grad) {
  const Tensor& logits = call.logits;
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const TreeOnDevice on_device(call.tree, level_ptr, logits, stream);
  const Tree& tree = on_device.tree;
  const Targets targets = bind_targets(call, tree);
  std::optional<InverseOnDevice> at;
  if (targets.mass)
    at.emplace(tree, targets.target_place, targets.num_targets, true, logits, stream);
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
      problem.divisor =
          reduction.weigh(targets.single() ? targets.index : nullptr,
                          call.weight ? call.weight->const_data_ptr<double>() : nullptr,
                          targets.num_targets, call.ignore_index, stream);
    launch_rows(tree_log_loss_kernel<Stored>, problem, plan, stream);
    reduction.reduce(stream);
  });
  check_launches(kOp, logits);
}

void check(const TreeLogLossCall& call, const std::vector<int64_t>& level_ptr) {
  check_rows(kOp, call.logits);
  check_tree(kOp, call.tree, level_ptr, call.logits);
  check_logits(call, bind_tree(call.tree));
  check_devices(call);
}

std::tuple<Tensor, Tensor> tree_log_loss(
    const Tensor& logits, const std::optional<Tensor>& mass, const std::optional<Tensor>& index,
    const std::optional<Tensor>& index_weight, const std::vector<Tensor>& tree,
    const std::vector<int64_t>& level_ptr, const std::vector<Tensor>& targets,
    const std::optional<Tensor>& weight, const std::optional<Tensor>& spread, double row_spread,
    const std::vector<Tensor>& soft_labels, int64_t ignore_index, int64_t reduction, double eps,
    bool with_grad) {
  const TreeLogLossCall call{logits,       mass,      index,  index_weight, tree,
                             targets,      weight,    spread, row_spread,   soft_labels,
                             ignore_index, reduction, eps};
  check(call, level_ptr);
  Tensor loss = new_loss(logits, reduction);
  Tensor grad = new_gradient(logits, with_grad);
  run(call, level_ptr, nullptr, &loss, with_grad ? &grad : nullptr);
  return {loss, grad};
}

Tensor tree_log_loss_backward(
    const Tensor& grad_loss, const Tensor& logits, const std::optional<Tensor>& mass,
    const std::optional<Tensor>& index, const std::optional<Tensor>& index_weight,
    const std::vector<Tensor>& tree, const std::vector<int64_t>& level_ptr,
    const std::vector<Tensor>& targets, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& spread, double row_spread, const std::vector<Tensor>& soft_labels,
    int64_t ignore_index, int64_t reduction, double eps) {
  const TreeLogLossCall call{logits,       mass,      index,  index_weight, tree,
                             targets,      weight,    spread, row_spread,   soft_labels,
                             ignore_index, reduction, eps};
  check(call, level_ptr);
  check_incoming(grad_loss, logits, reduction);
  Tensor grad = new_gradient(logits, true);
  run(call, level_ptr, &grad_loss, nullptr, &grad);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("tree_log_loss", TORCH_BOX(&tree_log_loss));
  m.impl("tree_log_loss_backward", TORCH_BOX(&tree_log_loss_backward));
}

}  // namespace hace
