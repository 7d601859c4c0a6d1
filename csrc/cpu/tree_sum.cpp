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

// Values whose columns are contiguous, and not their rows, give sums of the same layout: so vectors
// of nodes (N, F) are summed where they lie, as rows (F, N).
bool lie_side_by_side(const Tensor& values) {
  return values.dim() == 2 && values.stride(1) != 1 && values.stride(0) == 1;
}

std::vector<int32_t> nodes_at_places(const Tree& tree) {
  std::vector<int32_t> node_at(tree.num_places(), -1);
  for (int64_t node = 0; node < tree.num_nodes; ++node)
    if (tree.place[node] >= 0) node_at[tree.place[node]] = static_cast<int32_t>(node);
  return node_at;
}

Tensor sums(const char* op, const Tensor& values, const PlacedNodes& nodes, bool up) {
  TreeSumProblem problem;
  problem.side_by_side = nodes.mixed.count == 0 && lie_side_by_side(values);
  if (!problem.side_by_side) check_rows(op, values);
  const Tree& tree = nodes.tree;
  problem.tree = tree;
  problem.mixed = nodes.mixed;
  const int64_t num_rows = values.size(0);
  const int64_t width = up ? tree.num_classes : tree.num_nodes;
  const int64_t sums_width = up ? tree.num_nodes : tree.num_classes;
  STD_TORCH_CHECK(values.size(1) == width, op, ": values must have ", width, " columns, got ",
                  values.size(1));
  Tensor out =
      problem.side_by_side
          ? torch::stable::transpose(new_tensor({sums_width, num_rows}, values.scalar_type()), 0, 1)
          : new_tensor({num_rows, sums_width}, values.scalar_type());
  problem.values = values.const_data_ptr();
  problem.stride = values.stride(problem.side_by_side ? 1 : 0);
  problem.num_rows = num_rows;
  std::vector<int32_t> node_at;
  if (problem.side_by_side) node_at = nodes_at_places(tree);
  problem.node_at = node_at.data();
  problem.sums = out.mutable_data_ptr();
  problem.past_caches = writes_past_caches(
      problem.sums, num_rows, sums_width * static_cast<int64_t>(values.element_size()));

  const TreeSumKernel kernel =
      HACE_BEST_KERNEL(tree_sum_kernel, element_of(values), problem.side_by_side);
  const int64_t num_lines =
      problem.side_by_side ? tree.num_inner : tree.num_places() + nodes.mixed.count;
  for_blocks(num_rows, kernel.block_rows, num_lines * kernel.line_bytes,
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
