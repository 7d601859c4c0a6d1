// `tree_log_prob` and `dag_log_prob` on a GPU: checks, outputs, scratch memory. The arithmetic is
// in tree_log_prob.cuh.

#include <optional>

#include "dag_bindings.h"
#include "tree_log_prob.cuh"

namespace hace {
namespace {

// Launches the forward, or the backward where there is a gradient coming in.
void run(const char* op, const Tensor& logits, const NodeTable& table, const Tensor* grad,
         Tensor& out) {
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const TreeOnDevice on_device(table.tree_tensors, table.level_ptr, logits, stream);
  const Tree& tree = table.tree;
  std::optional<InverseOnDevice> nodes;
  if (grad) nodes.emplace(table.num_places(), tree.place, tree.num_nodes, false, logits, stream);

  for_element(element_of(logits), [&](auto stored) {
    using Stored = decltype(stored);
    using Real = work_t<Stored>;
    TreeLogProbProblem<Stored> problem = {};
    problem.tree = tree;
    problem.mixed = table.mixed;
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
    const int64_t row_bytes = tree_log_prob_row_bytes<Stored>(tree, table.mixed, grad);
    const RowPlan plan = plan_rows(tree, problem.num_rows, row_bytes, here.device());
    const RowScratch memory(logits, plan);
    problem.memory = memory.get();
    launch_rows(grad ? tree_log_prob_backward_kernel<Stored> : tree_log_prob_kernel<Stored>,
                problem, plan, here.device());
  });
  check_launches(op, logits);
}

void check_logits(const char* op, const Tensor& logits, const NodeTable& table) {
  check_rows(op, logits);
  const int64_t num_classes = table.tree.num_classes;
  STD_TORCH_CHECK(logits.size(1) == num_classes, op, ": logits must have ", num_classes,
                  " columns, got ", logits.size(1));
}

Tensor log_prob(const char* op, const Tensor& logits, const NodeTable& table) {
  check_logits(op, logits, table);
  Tensor out = new_tensor(logits, {logits.size(0), table.tree.num_nodes}, loss_type(logits));
  run(op, logits, table, nullptr, out);
  return out;
}

Tensor log_prob_backward(const char* op, const Tensor& grad, const Tensor& logits,
                         const NodeTable& table) {
  check_logits(op, logits, table);
  check_rows(op, grad);
  STD_TORCH_CHECK(grad.size(0) == logits.size(0) && grad.size(1) == table.tree.num_nodes &&
                      grad.scalar_type() == loss_type(logits),
                  op, ": the gradient must have the log-probabilities' shape and dtype");
  check_device(op, "the gradient", grad, logits);
  Tensor out = new_tensor(logits, {logits.size(0), logits.size(1)}, logits.scalar_type());
  run(op, logits, table, &grad, out);
  return out;
}

Tensor tree_log_prob(const Tensor& logits, const std::vector<Tensor>& tree,
                     const std::vector<int64_t>& level_ptr) {
  constexpr const char* kOp = "tree_log_prob";
  return log_prob(kOp, logits, NodeTable::of_tree(kOp, tree, level_ptr, logits));
}

Tensor tree_log_prob_backward(const Tensor& grad, const Tensor& logits,
                              const std::vector<Tensor>& tree,
                              const std::vector<int64_t>& level_ptr) {
  constexpr const char* kOp = "tree_log_prob_backward";
  return log_prob_backward(kOp, grad, logits, NodeTable::of_tree(kOp, tree, level_ptr, logits));
}

Tensor dag_log_prob(const Tensor& logits, const std::vector<Tensor>& dag,
                    const std::vector<int64_t>& sizes) {
  constexpr const char* kOp = "dag_log_prob";
  return log_prob(kOp, logits, NodeTable::of_dag(kOp, dag, sizes, logits));
}

Tensor dag_log_prob_backward(const Tensor& grad, const Tensor& logits,
                             const std::vector<Tensor>& dag, const std::vector<int64_t>& sizes) {
  constexpr const char* kOp = "dag_log_prob_backward";
  return log_prob_backward(kOp, grad, logits, NodeTable::of_dag(kOp, dag, sizes, logits));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("tree_log_prob", TORCH_BOX(&tree_log_prob));
  m.impl("tree_log_prob_backward", TORCH_BOX(&tree_log_prob_backward));
  m.impl("dag_log_prob", TORCH_BOX(&dag_log_prob));
  m.impl("dag_log_prob_backward", TORCH_BOX(&dag_log_prob_backward));
}

}  // namespace hace
