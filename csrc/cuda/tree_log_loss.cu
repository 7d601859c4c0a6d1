// `tree_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// tree_log_loss.cuh.

#include <optional>

#include "tree_log_loss.cuh"
#include "tree_loss_bindings.h"

namespace hace {
namespace {

constexpr const char* kOp = "tree_log_loss";

struct TreeLogLoss {
  using Call = TreeLogLossCall;

  static void check(const Call& call) {
    check_rows(kOp, call.logits);
    check_tree(kOp, call.tree, call.level_ptr, call.logits);
    check_logits(call, bind_tree(call.tree));
    check_target_devices(kOp, call);
  }

  static void run(const Call& call, const LossOutputs& outputs) {
    const Tensor& logits = call.logits;
    const OnDeviceOf here(logits);
    const cudaStream_t stream = here.device().stream;
    const TreeOnDevice on_device(call.tree, call.level_ptr, logits, stream);
    const Tree& tree = on_device.tree;
    const Targets targets = bind_targets(call, tree);
    std::optional<InverseOnDevice> at;
    if (targets.mass)
      at.emplace(tree.num_places(), targets.target_place, targets.num_targets, true, logits,
                 stream);
    const Tensor below =
        scratch(logits, targets.log_similarity ? tree.num_inner : 0, ScalarType::Int);
    const Tensor tables = scratch(logits, table_values(targets, tree), loss_type(logits));

    for_element(element_of(logits), [&](auto stored) {
      using Stored = decltype(stored);
      using Real = work_t<Stored>;
      TreeLogLossProblem<Stored> problem = {};
      problem.tree = tree;
      problem.levels = on_device.levels;
      problem.tables = make_tables(
          targets, tree, on_device.levels, static_cast<Real*>(tables.mutable_data_ptr()),
          at ? at->inverse : Inverse{}, static_cast<int32_t*>(below.mutable_data_ptr()), stream);
      launch_loss(call, outputs, tree, targets, RowValues<Real>::bytes(targets, tree),
                  here.device(), tree_log_loss_kernel<Stored>, problem);
    });
    check_launches(kOp, logits);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  implement_loss<TreeLogLossCall, loss_op<TreeLogLoss>, loss_backward_op<TreeLogLoss>>(
      m, "tree_log_loss");
}

}  // namespace hace
