// `path_log_loss` on the CPU: checks and binds the arguments, weighs the rows, splits the work over
// threads. The arithmetic is in path_log_loss_kernel.cpp.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "isa.h"
#include "path_log_loss_arguments.h"
#include "path_log_loss_kernel.h"
#include "rows.h"
#include "scratch.h"
#include "subnormals.h"

namespace hace {
namespace {

int64_t work_size(Element element) { return element == Element::kFloat64 ? 8 : 4; }

struct PathRows : Rows {
  int64_t max_entries = 0;
};

// The kernels trust a path to lie in the table and its intervals to be nested and in the row.
void check_path(const PathLogLossCall& call, int64_t t, int64_t row, int64_t first, int64_t last) {
  const int32_t* start = call.start.const_data_ptr<int32_t>();
  const int32_t* stop = call.stop.const_data_ptr<int32_t>();
  STD_TORCH_CHECK(0 <= first && first <= last && last <= call.start.numel(),
                  "path_log_loss: the path table has no entries ", first, " to ", last,
                  ", which its ptr gives target ", t);
  for (int64_t i = first; i < last; ++i) {
    STD_TORCH_CHECK(start[i] != stop[i], "target ", t, " of row ", row,
                    " has no class at or below it, so its probability is 0 whatever the logits");
    const bool nested =
        i == first ? start[i] < stop[i] : start[i] <= start[i - 1] && stop[i - 1] <= stop[i];
    STD_TORCH_CHECK(nested && start[i] >= 0 && stop[i] <= call.logits.size(1),
                    "path_log_loss: the path table's intervals for target ", t,
                    " are not nested within the columns");
  }
}

PathRows weigh_rows(const PathLogLossCall& call) {
  const int64_t num_rows = call.logits.size(0);
  const int64_t num_targets = call.ptr.numel() - 1;
  const int64_t* target = call.target.const_data_ptr<int64_t>();
  const int64_t* ptr = call.ptr.const_data_ptr<int64_t>();
  const double* target_weight =
      call.target_weight ? call.target_weight->const_data_ptr<double>() : nullptr;

  PathRows rows;
  rows.factor.resize(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t t = target[row];
    if (t == call.ignore_index) continue;
    STD_TORCH_CHECK(t >= 0 && t < num_targets, "target ", t, " of row ", row,
                    " is out of range: it must be in [0, ", num_targets, ")");
    check_path(call, t, row, ptr[t], ptr[t + 1]);
    rows.max_entries = std::max(rows.max_entries, ptr[t + 1] - ptr[t]);
    rows.factor[row] = target_weight ? target_weight[t] : 1.0;
    rows.total += rows.factor[row];
  }
  if (call.reduction == kMean && rows.total != 0)
    for (double& factor : rows.factor) factor /= rows.total;
  return rows;
}

// Rows of at least this many columns are split over the threads where whole rows would leave more
// than a tenth of them idle.
constexpr int64_t kSplitColumns = int64_t{1} << 17;

bool splits_rows(int64_t num_rows, int64_t columns, int64_t threads) {
  const int64_t rounds = (num_rows + threads - 1) / threads;
  return columns >= kSplitColumns && 10 * num_rows < 9 * rounds * threads;
}

thread_local Scratch thread_values;
thread_local Scratch thread_plan;

PathLogLossWorkspace workspace_of(const PathLogLossKernel& kernel,
                                  const PathLogLossProblem& problem, int64_t max_entries,
                                  int64_t value_size) {
  return {thread_values.get(kernel.workspace_values(problem) * value_size),
          thread_plan.get(kernel.workspace_plan_bytes(problem, max_entries))};
}

// The losses go to `loss` unweighted, one a row; the gradient to `grad`, unless null, weighted by
// `rows.factor`.
void run(const PathLogLossCall& call, const PathRows& rows, double* loss, void* grad) {
  const Element element = element_of(call.logits);
  const PathLogLossKernel kernel = HACE_BEST_KERNEL(path_log_loss_kernel, element);
  const int64_t num_rows = call.logits.size(0);
  const int64_t columns = call.logits.size(1);

  PathLogLossProblem problem;
  problem.logits = call.logits.const_data_ptr();
  problem.row_stride = call.logits.stride(0);
  problem.columns = columns;
  problem.grad = grad;
  problem.ptr = call.ptr.const_data_ptr<int64_t>();
  problem.start = call.start.const_data_ptr<int32_t>();
  problem.stop = call.stop.const_data_ptr<int32_t>();
  problem.weight = call.weight.const_data_ptr<double>();
  problem.order = call.order ? call.order->const_data_ptr<int32_t>() : nullptr;
  problem.entropy = call.entropy;
  problem.eps = call.eps;
  problem.target = call.target.const_data_ptr<int64_t>();
  problem.factor = rows.factor.data();
  problem.loss = loss;
  const int64_t row_bytes = columns * static_cast<int64_t>(call.logits.element_size());
  problem.past_caches = grad && !problem.order && writes_past_caches(num_rows, row_bytes);

  const int64_t value_size = work_size(element);
  const int64_t threads = torch::stable::get_num_threads();
  if (splits_rows(num_rows, columns, threads)) {
    PathLogLossWorkspace workspace = workspace_of(kernel, problem, rows.max_entries, value_size);
    for (int64_t row = 0; row < num_rows; ++row) {
      if (problem.factor[row] == 0) {
        kernel.run_rows(problem, row, row + 1, workspace);
        continue;
      }
      const int stages = kernel.begin_row(problem, row, workspace);
      for (int stage = 0; stage < stages; ++stage)
        torch::stable::parallel_for(0, kernel.stage_units(workspace, stage), 1,
                                    [&](int64_t first, int64_t last) {
                                      const SubnormalsAreZero guard;
                                      kernel.run_stage(problem, workspace, stage, first, last);
                                    });
    }
    return;
  }
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(columns, 1));
  torch::stable::parallel_for(0, num_rows, grain, [&](int64_t first, int64_t last) {
    const SubnormalsAreZero guard;
    PathLogLossWorkspace workspace = workspace_of(kernel, problem, rows.max_entries, value_size);
    kernel.run_rows(problem, first, last, workspace);
  });
}

std::tuple<Tensor, Tensor> path_log_loss(const Tensor& logits, const Tensor& target,
                                         const Tensor& ptr, const Tensor& start, const Tensor& stop,
                                         const Tensor& weight, const std::optional<Tensor>& order,
                                         int64_t max_entries,
                                         const std::optional<Tensor>& target_weight, double entropy,
                                         int64_t ignore_index, int64_t reduction, double eps,
                                         bool with_grad) {
  const PathLogLossCall call{logits,       target,    ptr,         start,         stop,
                             weight,       order,     max_entries, target_weight, entropy,
                             ignore_index, reduction, eps};
  check(call);
  const PathRows rows = weigh_rows(call);
  std::vector<double> loss(logits.size(0));
  const std::vector<int64_t> shape =
      with_grad ? std::vector<int64_t>{logits.size(0), logits.size(1)} : std::vector<int64_t>{0};
  Tensor grad = torch::stable::new_empty(logits, shape);
  run(call, rows, loss.data(), with_grad ? grad.mutable_data_ptr() : nullptr);
  return {reduced_loss(logits, loss, rows, reduction), grad};
}

Tensor path_log_loss_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target,
                              const Tensor& ptr, const Tensor& start, const Tensor& stop,
                              const Tensor& weight, const std::optional<Tensor>& order,
                              int64_t max_entries, const std::optional<Tensor>& target_weight,
                              double entropy, int64_t ignore_index, int64_t reduction, double eps) {
  const PathLogLossCall call{logits,       target,    ptr,         start,         stop,
                             weight,       order,     max_entries, target_weight, entropy,
                             ignore_index, reduction, eps};
  check(call);
  const int64_t num_rows = logits.size(0);
  PathRows rows = weigh_rows(call);
  scale_by_incoming(rows, grad_loss, reduction);
  std::vector<double> loss(num_rows);
  Tensor grad = torch::stable::new_empty(logits, {num_rows, logits.size(1)});
  run(call, rows, loss.data(), grad.mutable_data_ptr());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("path_log_loss", TORCH_BOX(&path_log_loss));
  m.impl("path_log_loss_backward", TORCH_BOX(&path_log_loss_backward));
}

}  // namespace hace
