// `tree_sum_up`, `tree_sum_down`, `dag_sum_up` and `dag_sum_down` on a GPU: checks, outputs,
// scratch memory. The arithmetic is in tree_sum.cuh.

#include <optional>

#include "dag_bindings.h"
#include "tree_sum.cuh"

namespace hace {
namespace {

Tensor sums(const char* op, const Tensor& values, const NodeTable& table, bool up) {
  check_rows(op, values);
  const OnDeviceOf here(values);
  const cudaStream_t stream = here.device().stream;
  const TreeOnDevice on_device(table.tree_tensors, table.level_ptr, values, stream);
  const Tree& tree = table.tree;
  const int64_t width = up ? tree.num_classes : tree.num_nodes;
  const int64_t sums_width = up ? tree.num_nodes : tree.num_classes;
  STD_TORCH_CHECK(values.size(1) == width, op, ": values must have ", width, " columns, got ",
                  values.size(1));
  Tensor out = new_tensor(values, {values.size(0), sums_width}, values.scalar_type());
  std::optional<InverseOnDevice> nodes;
  if (!up) nodes.emplace(table.num_places(), tree.place, tree.num_nodes, false, values, stream);

  for_element(element_of(values), [&](auto stored) {
    using Stored = decltype(stored);
    TreeSumProblem<Stored> problem = {};
    problem.tree = tree;
    problem.mixed = table.mixed;
    problem.levels = on_device.levels;
    problem.num_rows = values.size(0);
    problem.values = static_cast<const Stored*>(values.const_data_ptr());
    problem.row_stride = values.stride(0);
    problem.sums = static_cast<Stored*>(out.mutable_data_ptr());
    problem.node_at = nodes ? nodes->inverse.first : nullptr;
    const RowPlan plan = plan_rows(tree, problem.num_rows,
                                   tree_sum_row_bytes<Stored>(tree, table.mixed), here.device());
    const RowScratch memory(values, plan);
    problem.memory = memory.get();
    launch_rows(up ? tree_sum_up_kernel<Stored> : tree_sum_down_kernel<Stored>, problem, plan,
                here.device());
  });
  check_launches(op, values);
  return out;
}

Tensor tree_sum_up(const Tensor& values, const std::vector<Tensor>& tree,
                   const std::vector<int64_t>& level_ptr) {
  constexpr const char* kOp = "tree_sum_up";
  return sums(kOp, values, NodeTable::of_tree(kOp, tree, level_ptr, values), true);
}

Tensor tree_sum_down(const Tensor& values, const std::vector<Tensor>& tree,
                     const std::vector<int64_t>& level_ptr) {
  constexpr const char* kOp = "tree_sum_down";
  return sums(kOp, values, NodeTable::of_tree(kOp, tree, level_ptr, values), false);
}

Tensor dag_sum_up(const Tensor& values, const std::vector<Tensor>& dag,
                  const std::vector<int64_t>& sizes) {
  constexpr const char* kOp = "dag_sum_up";
  return sums(kOp, values, NodeTable::of_dag(kOp, dag, sizes, values), true);
}

Tensor dag_sum_down(const Tensor& values, const std::vector<Tensor>& dag,
                    const std::vector<int64_t>& sizes) {
  constexpr const char* kOp = "dag_sum_down";
  return sums(kOp, values, NodeTable::of_dag(kOp, dag, sizes, values), false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("tree_sum_up", TORCH_BOX(&tree_sum_up));
  m.impl("tree_sum_down", TORCH_BOX(&tree_sum_down));
  m.impl("dag_sum_up", TORCH_BOX(&dag_sum_up));
  m.impl("dag_sum_down", TORCH_BOX(&dag_sum_down));
}

}  // namespace hace
