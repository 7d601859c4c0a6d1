// `tree_sum_up`, `tree_sum_down`, `dag_sum_up` and `dag_sum_down` on the CPU: checks, outputs,
// threads. The arithmetic is in tree_sum_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "dag_checks.h"
#include "isa.h"
#include "new_tensor.h"
#include "rows.h"
#include "tree_sum_kernel.h"

namespace hace {
namespace {

Tensor sums(const char* op, const Tensor& values, const PlacedNodes& nodes, bool up) {
  check_rows(op, values);
  const Tree& tree = nodes.tree;
  TreeSumProblem problem;
  problem.tree = tree;
  problem.mixed = nodes.mixed;
  const int64_t num_rows = values.size(0);
  const int64_t width = up ? tree.num_classes : tree.num_nodes;
  const int64_t sums_width = up ? tree.num_nodes : tree.num_classes;
  STD_TORCH_CHECK(values.size(1) == width, op, ": values must have ", width, " columns, got ",
                  values.size(1));
  Tensor out = new_tensor({num_rows, sums_width}, values.scalar_type());
  problem.values = values.const_data_ptr();
  problem.row_stride = values.stride(0);
  problem.sums = out.mutable_data_ptr();
  problem.past_caches = writes_past_caches(
      problem.sums, num_rows, sums_width * static_cast<int64_t>(values.element_size()));

  const TreeSumKernel kernel = HACE_BEST_KERNEL(tree_sum_kernel, element_of(values));
  for_blocks(num_rows, kernel.block_rows,
             (tree.num_places() + nodes.mixed.count) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               (up ? kernel.up : kernel.down)(problem, first, count, lines);
             });
  return out;
}

Tensor tree_sum_up(const Tensor& values, const std::vector<Tensor>& tree,
                   const std::vector<int64_t>&) {
  return sums("tree_sum_up", values, nodes_of_tree(tree), true);
}

Tensor tree_sum_down(const Tensor& values, const std::vector<Tensor>& tree,
                     const std::vector<int64_t>&) {
  return sums("tree_sum_down", values, nodes_of_tree(tree), false);
}

Tensor dag_sum_up(const Tensor& values, const std::vector<Tensor>& dag,
                  const std::vector<int64_t>&) {
  return sums("dag_sum_up", values, nodes_of_dag(dag), true);
}

Tensor dag_sum_down(const Tensor& values, const std::vector<Tensor>& dag,
                    const std::vector<int64_t>&) {
  return sums("dag_sum_down", values, nodes_of_dag(dag), false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("tree_sum_up", TORCH_BOX(&tree_sum_up));
  m.impl("tree_sum_down", TORCH_BOX(&tree_sum_down));
  m.impl("dag_sum_up", TORCH_BOX(&dag_sum_up));
  m.impl("dag_sum_down", TORCH_BOX(&dag_sum_down));
}

}  // namespace hace
