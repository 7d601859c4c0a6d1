// `dag_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// dag_log_loss.cuh.

#include <optional>
#include <vector>

#include "dag_bindings.h"
#include "dag_log_loss.cuh"
#include "tree_loss_bindings.h"

namespace hace {
namespace {

constexpr const char* kOp = "dag_log_loss";

int64_t num_levels(const std::vector<int64_t>& ptr) { return static_cast<int64_t>(ptr.size()) - 1; }

struct DagLogLoss {
  using Call = TreeLogLossCall;

  static void check(const Call& call) {
    check_rows(kOp, call.logits);
    check_reduction(kOp, call.reduction);
    const Dag dag = bind_dag(call.tree);
    const DagLevels levels(call.level_ptr);
    check_dag(kOp, call.tree, levels, call.logits);
    check_target_devices(kOp, call);
    STD_TORCH_CHECK(call.logits.size(1) == dag.num_columns, kOp, ": logits must have ",
                    dag.num_columns, " columns, got ", call.logits.size(1));
    STD_TORCH_CHECK(call.table.size() > 6 && !call.table[6], kOp,
                    ": soft labels need lowest common ancestors, which a DAG does not have");
  }

  static void run(const Call& call, const LossOutputs& outputs) {
    const Tensor& logits = call.logits;
    const OnDeviceOf here(logits);
    const cudaStream_t stream = here.device().stream;
    const Dag dag = bind_dag(call.tree);
    const DagLevels levels(call.level_ptr);
    const TreeOnDevice on_device(tensors_of_tree(call.tree), levels.tree, logits, stream);
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
      problem.tables = make_tables(dag, targets, at ? at->inverse : Inverse{},
                                   static_cast<Real*>(tables.mutable_data_ptr()), stream);
      launch_loss(call, outputs, dag.spanning.tree, targets,
                  DagRowValues<Real>::bytes(dag.spanning), here.device(),
                  dag_log_loss_kernel<Stored>, problem);
    });
    check_launches(kOp, logits);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  implement_loss<TreeLogLossCall, loss_op<DagLogLoss>, loss_backward_op<DagLogLoss>>(
      m, "dag_log_loss");
}

}  // namespace hace
