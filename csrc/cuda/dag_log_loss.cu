// `dag_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// dag_log_loss.cuh.

#include <optional>
#include <tuple>
#include <vector>

#include "../dag_tensors.h"
#include "../tree_log_loss_arguments.h"
#include "dag_log_loss.cuh"
#include "row_reduction.h"
#include "tree_bindings.h"

namespace hace {
namespace {

constexpr const char* kOp = "dag_log_loss";

// The levels of the tree, and those of the nodes by height, out of a ClosureTable's sizes.
struct DagLevels {
  std::vector<int64_t> tree, heights;

  explicit DagLevels(const std::vector<int64_t>& sizes) {
    constexpr int64_t kLists = 5;  // whose lengths come first
    STD_TORCH_CHECK(sizes.size() >= kLists, kNoDag);
    const int64_t left = static_cast<int64_t>(sizes.size()) - kLists;
    STD_TORCH_CHECK(sizes[0] > 0 && sizes[1] > 0 && sizes[0] <= left && sizes[1] <= left - sizes[0],
                    kNoDag);
    const auto first = sizes.begin() + kLists;
    tree.assign(first, first + sizes[0]);
    heights.assign(first + sizes[0], first + sizes[0] + sizes[1]);
  }
};

int64_t num_levels(const std::vector<int64_t>& ptr) { return static_cast<int64_t>(ptr.size()) - 1; }

// Launches everything. `loss` is reduced as the call says; either output may be null.
void run(const TreeLogLossCall& call, const Tensor* grad_loss, Tensor* loss, Tensor* grad) {
  const Tensor& logits = call.logits;
  const OnDeviceOf here(logits);
  const cudaStream_t stream = here.device().stream;
  const Dag dag = bind_dag(call.tree);
  const Tree& tree = dag.spanning.tree;
  const DagLevels levels(call.level_ptr);
  const TreeOnDevice on_device({call.tree.begin() + 7, call.tree.begin() + 12}, levels.tree, logits,
                               stream);
  const Tensor height_memory =
      scratch(logits, levels_memory(num_levels(levels.heights)), ScalarType::Int);
  Targets targets = {};
  bind_table(call, dag.num_nodes, targets);
  bind_rows(call, targets);
  std::optional<InverseOnDevice> at;
  if (targets.mass)
    at.emplace(dag.num_nodes, targets.target_place, targets.num_targets, true, logits, stream);
  const Tensor tables = scratch(logits, dag_table_values(dag), loss_type(logits));

  for_element(element_of(logits), [&](auto stored) {
    using Stored = decltype(stored);
    using Real = work_t<Stored>;
    DagLogLossProblem<Stored> problem = {};
    problem.dag = dag;
    problem.levels = on_device.levels;
    problem.heights = levels_of(levels.heights.data(), num_levels(levels.heights),
                                static_cast<int32_t*>(height_memory.mutable_data_ptr()), stream);
    problem.targets = targets;
    problem.tables = make_tables(dag, targets, at ? at->inverse : Inverse{},
                                 static_cast<Real*>(tables.mutable_data_ptr()), stream);
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
        plan_rows(tree, problem.num_rows, DagRowValues<Real>::bytes(dag.spanning), here.device());
    const RowScratch memory(logits, plan);
    problem.memory = memory.get();
    RowReduction<Real> reduction(logits, loss, call.reduction);
    problem.row_loss = reduction.row_loss();
    if (call.reduction == kMean)
      problem.divisor = reduction.weigh(targets.single() ? targets.index : nullptr, targets.weight,
                                        targets.num_targets, call.ignore_index, stream);
    launch_rows(dag_log_loss_kernel<Stored>, problem, plan, stream);
    reduction.reduce(stream);
  });
  check_launches(kOp, logits);
}

void check(const TreeLogLossCall& call) {
  check_rows(kOp, call.logits);
  check_reduction(kOp, call.reduction);
  const Dag dag = bind_dag(call.tree);
  const DagLevels levels(call.level_ptr);
  check_tree(kOp, {call.tree.begin() + 7, call.tree.begin() + 12}, levels.tree, call.logits);
  const auto check_on_device = [&](const char* what, const Tensor& tensor) {
    check_device(kOp, what, tensor, call.logits);
  };
  for (size_t i = 0; i < kDagTensors; ++i) check_on_device("the DAG", call.tree[i]);
  for (const std::optional<Tensor>& tensor : {call.mass, call.index, call.index_weight})
    if (tensor) check_on_device("the target", *tensor);
  for (const std::optional<Tensor>& tensor : call.table)
    if (tensor) check_on_device("the target table", *tensor);
  bool rising = levels.heights.front() == 0 && levels.heights.back() == dag.num_nodes;
  for (size_t i = 1; rising && i < levels.heights.size(); ++i)
    rising = levels.heights[i - 1] <= levels.heights[i];
  STD_TORCH_CHECK(rising && dag.spanning.num_places() < int64_t{1} << 30, kNoDag);
  STD_TORCH_CHECK(call.logits.size(1) == dag.num_columns, kOp, ": logits must have ",
                  dag.num_columns, " columns, got ", call.logits.size(1));
  STD_TORCH_CHECK(call.table.size() > 6 && !call.table[6], kOp,
                  ": soft labels are of lowest common ancestors, which a DAG lacks");
}

std::tuple<Tensor, Tensor> dag_log_loss(const TreeLogLossCall& call, bool with_grad) {
  check(call);
  Tensor loss = new_loss(call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, with_grad);
  run(call, nullptr, &loss, with_grad ? &grad : nullptr);
  return {loss, grad};
}

Tensor dag_log_loss_backward(const Tensor& grad_loss, const TreeLogLossCall& call) {
  check(call);
  check_incoming(grad_loss, call.logits, call.reduction);
  Tensor grad = new_gradient(call.logits, true);
  run(call, &grad_loss, nullptr, &grad);
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("dag_log_loss", &boxed_loss<TreeLogLossCall, dag_log_loss>);
  m.impl("dag_log_loss_backward", &boxed_backward<TreeLogLossCall, dag_log_loss_backward>);
}

}  // namespace hace
