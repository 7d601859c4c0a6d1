// `tree_log_prob` and `dag_log_prob` on the CPU: checks, outputs, threads. The arithmetic is in
// tree_log_prob_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "dag_checks.h"
#include "isa.h"
#include "new_tensor.h"
#include "rows.h"
#include "subnormals.h"
#include "tree_log_prob_kernel.h"

namespace hace {
namespace {

TreeLogProbProblem problem_of(const char* op, const Tensor& logits, const PlacedNodes& nodes) {
  check_rows(op, logits);
  TreeLogProbProblem problem = {};
  problem.tree = nodes.tree;
  problem.mixed = nodes.mixed;
  STD_TORCH_CHECK(logits.size(1) == problem.tree.num_classes, op, ": logits must have ",
                  problem.tree.num_classes, " columns, got ", logits.size(1));
  problem.logits = logits.const_data_ptr();
  problem.row_stride = logits.stride(0);
  return problem;
}

Tensor log_prob(const char* op, const Tensor& logits, const PlacedNodes& nodes) {
  TreeLogProbProblem problem = problem_of(op, logits, nodes);
  const Tree& tree = problem.tree;
  const int64_t num_rows = logits.size(0);
  Tensor out = new_tensor({num_rows, tree.num_nodes}, loss_type(logits));
  problem.log_prob = out.mutable_data_ptr();
  problem.past_caches = writes_past_caches(
      problem.log_prob, num_rows, tree.num_nodes * static_cast<int64_t>(out.element_size()));
  const TreeLogProbKernel kernel = HACE_BEST_KERNEL(tree_log_prob_kernel, element_of(logits));
  for_blocks(num_rows, kernel.block_rows, kernel.forward_lines(problem) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               const SubnormalsAreZero guard;
               kernel.forward(problem, first, count, lines);
             });
  return out;
}

Tensor log_prob_backward(const char* op, const Tensor& grad, const Tensor& logits,
                         const PlacedNodes& nodes) {
  TreeLogProbProblem problem = problem_of(op, logits, nodes);
  const Tree& tree = problem.tree;
  const int64_t num_rows = logits.size(0);
  check_rows(op, grad);
  STD_TORCH_CHECK(grad.size(0) == num_rows && grad.size(1) == tree.num_nodes &&
                      grad.scalar_type() == loss_type(logits),
                  op, ": the gradient must have the log-probabilities' shape and dtype");
  problem.grad = grad.const_data_ptr();
  problem.grad_stride = grad.stride(0);
  Tensor out = new_tensor({num_rows, tree.num_classes}, logits.scalar_type());
  problem.grad_logits = out.mutable_data_ptr();
  problem.past_caches = writes_past_caches(
      problem.grad_logits, num_rows, tree.num_classes * static_cast<int64_t>(out.element_size()));
  const TreeLogProbKernel kernel = HACE_BEST_KERNEL(tree_log_prob_kernel, element_of(logits));
  for_blocks(num_rows, kernel.block_rows, kernel.backward_lines(problem) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               const SubnormalsAreZero guard;
               kernel.backward(problem, first, count, lines);
             });
  return out;
}

Tensor tree_log_prob(const Tensor& logits, const std::vector<Tensor>& tree,
                     const std::vector<int64_t>&) {
  return log_prob("tree_log_prob", logits, nodes_of_tree(tree));
}

Tensor tree_log_prob_backward(const Tensor& grad, const Tensor& logits,
                              const std::vector<Tensor>& tree, const std::vector<int64_t>&) {
  return log_prob_backward("tree_log_prob_backward", grad, logits, nodes_of_tree(tree));
}

Tensor dag_log_prob(const Tensor& logits, const std::vector<Tensor>& dag,
                    const std::vector<int64_t>&) {
  return log_prob("dag_log_prob", logits, nodes_of_dag(dag));
}

Tensor dag_log_prob_backward(const Tensor& grad, const Tensor& logits,
                             const std::vector<Tensor>& dag, const std::vector<int64_t>&) {
  return log_prob_backward("dag_log_prob_backward", grad, logits, nodes_of_dag(dag));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("tree_log_prob", TORCH_BOX(&tree_log_prob));
  m.impl("tree_log_prob_backward", TORCH_BOX(&tree_log_prob_backward));
  m.impl("dag_log_prob", TORCH_BOX(&dag_log_prob));
  m.impl("dag_log_prob_backward", TORCH_BOX(&dag_log_prob_backward));
}

}  // namespace hace
