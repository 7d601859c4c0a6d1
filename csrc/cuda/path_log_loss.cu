// `path_log_loss` on a GPU: arguments, outputs, scratch memory. The arithmetic is in
// path_log_loss.cuh.

#include "../path_log_loss_arguments.h"
#include "path_log_loss.cuh"
#include "row_reduction.h"

namespace hace {
namespace {

void check_devices(const PathLogLossCall& call) {
  const auto check = [&](const char* what, const Tensor& tensor) {
    check_device("path_log_loss", what, tensor, call.logits);
  };
  check("target", call.target);
  for (const Tensor& tensor : call.table) check("the path table", tensor);
  if (call.target_weight) check("target_weight", *call.target_weight);
}

struct PathLogLoss {
  using Call = PathLogLossCall;

  static void check(const Call& call) { check_rows("path_log_loss", call.logits); }

  static void run(const Call& call, const LossOutputs& outputs) {
    const PathArrays paths = hace::check(call);
    check_devices(call);
    const Tensor& logits = call.logits;
    STD_TORCH_CHECK(logits.size(1) < (int64_t{1} << 31) - 2 * kStrip, "path_log_loss: rows of ",
                    logits.size(1), " columns are too long");
    const OnDeviceOf here(logits);
    const cudaStream_t stream = here.device().stream;
    const int64_t num_targets = paths.num_targets;

    for_element(element_of(logits), [&](auto stored) {
      using Stored = decltype(stored);
      using Real = work_t<Stored>;
      PathLogLossProblem<Stored> problem = {};
      bind_loss(logits, call.eps, outputs, problem);
      problem.columns = static_cast<int>(logits.size(1));
      problem.ptr = paths.ptr;
      problem.start = paths.start;
      problem.stop = paths.stop;
      problem.weight = paths.weight;
      problem.order = paths.order;
      problem.num_targets = num_targets;
      problem.max_entries = static_cast<int>(call.max_entries);
      problem.target = call.target.const_data_ptr<int64_t>();
      problem.target_weight =
          call.target_weight ? call.target_weight->const_data_ptr<double>() : nullptr;
      problem.ignore_index = call.ignore_index;
      problem.entropy = call.entropy;

      const PathLogLossPlan plan = plan_path_log_loss(problem, here.device());
      const Tensor memory = scratch(logits, plan.memory_values, loss_type(logits));
      RowReduction<Real> reduction(logits, outputs.loss, call.reduction);
      problem.row_loss = reduction.row_loss();
      if (call.reduction == kMean)
        problem.divisor = reduction.weigh(problem.target, problem.target_weight, num_targets,
                                          call.ignore_index, stream);
      run_path_log_loss(problem, plan, static_cast<Real*>(memory.mutable_data_ptr()),
                        here.device());
      reduction.reduce(stream);
    });
    check_launches("path_log_loss", logits);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  implement_loss<PathLogLossCall, loss_op<PathLogLoss>, loss_backward_op<PathLogLoss>>(
      m, "path_log_loss");
}

}  // namespace hace
