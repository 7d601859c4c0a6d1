// `tree_log_prob` on a GPU: checks, outputs, scratch memory. The arithmetic is in
// tree_log_prob.cuh.

#include <optional>

#include "tree_bindings.h"
#include "tree_log_prob.cuh"

namespace hace {
namespace {

// Launches the forward, or the backward if there is an incoming gradient.
void run(const char* op, const Tensor& logits, const std::vector<Tensor>& tensors,
         const std::vector<int64_t>& level_ptr, const Tensor* grad, Tensor& out) {
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const TreeOnDevice on_device(tensors, level_ptr, logits, stream);
  const Tree& tree = on_device.tree;
  std::optional<InverseOnDevice> nodes;
  if (grad) nodes.emplace(tree.num_places(), tree.place, tree.num_nodes, false, logits, stream);

  for_element(element_of(logits), [&](auto stored) {
    using Stored = decltype(stored);
    using Real = work_t<Stored>;
    TreeLogProbProblem<Stored> problem = {};
    problem.tree = tree;
    problem.levels = on_device.levels;
    problem.num_rows = logits.size(0);
    problem.logits = static_cast<const Stored*>(logits.const_data_ptr());
    problem.row_stride = logits.stride(0);
    if (grad) {
      problem.grad = static_cast<const Real*>(grad->const_data_ptr());
      problem.grad_stride = grad->stride(0);
      problem.grad_logits = static_cast<Stored*>(out.mutable_data_ptr());
      problem.node_at = nodes->inverse.first;
    } else {
      problem.log_prob = static_cast<Real*>(out.mutable_data_ptr());
    }
    const int64_t row_bytes = tree_log_prob_row_bytes<Stored>(tree, grad);
    const RowPlan plan = plan_rows(tree, problem.num_rows, row_bytes, here.device());
    const RowScratch memory(logits, plan);
    problem.memory = memory.get();
    launch_rows(grad ? tree_log_prob_backward_kernel<Stored> : tree_log_prob_kernel<Stored>,
                problem, plan, stream);
  });
  check_launches(op, logits);
}

void check_logits(const char* op, const Tensor& logits, const std::vector<Tensor>& tensors,
                  const std::vector<int64_t>& level_ptr) {
  check_rows(op, logits);
  check_tree(op, tensors, level_ptr, logits);
  const int64_t num_classes = bind_tree(tensors).num_classes;
  STD_TORCH_CHECK(logits.size(1) == num_classes, op, ": logits must have ", num_classes,
                  " columns, got ", logits.size(1));
}

Tensor tree_log_prob(const Tensor& logits, const std::vector<Tensor>& tensors,
                     const std::vector<int64_t>& level_ptr) {
  check_logits("tree_log_prob", logits, tensors, level_ptr);
  const int64_t num_nodes = tensors[0].numel();
  Tensor out = torch::stable::new_empty(logits, {logits.size(0), num_nodes}, loss_type(logits));
  run("tree_log_prob", logits, tensors, level_ptr, nullptr, out);
  return out;
}

Tensor tree_log_prob_backward(const Tensor& grad, const Tensor& logits,
                              const std::vector<Tensor>& tensors,
                              const std::vector<int64_t>& level_ptr) {
  check_logits("tree_log_prob_backward", logits, tensors, level_ptr);
  check_rows("tree_log_prob_backward", grad);
  STD_TORCH_CHECK(grad.size(0) == logits.size(0) && grad.size(1) == tensors[0].numel() &&
                      grad.scalar_type() == loss_type(logits),
                  "tree_log_prob_backward: the gradient must have the log-probabilities' shape and "
                  "dtype");
  check_device("tree_log_prob_backward", "the gradient", grad, logits);
  Tensor out = torch::stable::new_empty(logits, {logits.size(0), logits.size(1)});
  run("tree_log_prob_backward", logits, tensors, level_ptr, &grad, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("tree_log_prob", TORCH_BOX(&tree_log_prob));
  m.impl("tree_log_prob_backward", TORCH_BOX(&tree_log_prob_backward));
}

}  // namespace hace
