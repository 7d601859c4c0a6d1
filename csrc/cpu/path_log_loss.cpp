// `path_log_loss` on the CPU: checks and binds the arguments, computes the rows' weights, divides
// the work among threads. The arithmetic is in path_log_loss_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "errors.h"
#include "isa.h"
#include "new_tensor.h"
#include "parallel.h"
#include "patches.h"
#include "path_log_loss_arguments.h"
#include "path_log_loss_kernel.h"
#include "path_plan.h"
#include "ranges.h"
#include "rows.h"
#include "scratch.h"
#include "subnormals.h"

namespace hace {
namespace {

int64_t work_size(Element element) { return element == Element::kFloat64 ? 8 : 4; }

struct PathRows : Rows {
  int64_t max_entries = 0;
};

// Checks what the kernels rely on: a path lies in the table; its intervals are nested, and in the
// row.
void check_path(const PathArrays& paths, int64_t columns, int64_t t, int64_t row) {
  const int64_t first = paths.ptr[t], last = paths.ptr[t + 1];
  STD_TORCH_CHECK(0 <= first && first <= last && last <= paths.num_entries,
                  "path_log_loss: the path table has no entries ", first, " to ", last,
                  ", which its ptr gives target ", t);
  for (int64_t i = first; i < last; ++i) {
    const int32_t start = paths.start[i], stop = paths.stop[i];
    HACE_CHECK_INDEX(start != stop, "target ", t, " of row ", row,
                     " has no class at or below it, so its probability is 0 whatever the logits");
    const bool nested =
        i == first ? start < stop : start <= paths.start[i - 1] && paths.stop[i - 1] <= stop;
    STD_TORCH_CHECK(nested && start >= 0 && stop <= columns,
                    "path_log_loss: the path table's intervals for target ", t,
                    " are not nested within the columns");
  }
  const RingWords& rings = paths.rings;
  if (!rings.ring) return;
  for (int64_t i = first + t; i <= last + t; ++i) {
    const int64_t ring = rings.ring[i];
    const bool is_listed = ring >= 0 && ring < rings.num_rings && rings.ptr[ring] >= 0 &&
                           rings.ptr[ring] <= rings.ptr[ring + 1] &&
                           rings.ptr[ring + 1] <= rings.num_words &&
                           (rings.ptr[ring + 1] - rings.ptr[ring]) % kWordsAtOnce == 0;
    STD_TORCH_CHECK(is_listed, "path_log_loss: the path table lists no words for ring ", ring,
                    " of target ", t);
  }
}

// Checks that the columns that the kernels gather are in the row. (Positions are only compared.)
void check_columns(const int32_t* order, int64_t columns, int64_t first, int64_t size) {
  STD_TORCH_CHECK(all_within(order + first, size, 0, columns),
                  "path_log_loss: the path table's order and position must be permutations of the ",
                  columns, " columns, and an entry is out of range");
}

void check_gathered(const PathLogLossProblem& problem, const Plan& plan) {
  if (!plan.by_position || !problem.order) return;
  for (int64_t p = 0; p < plan.num_gathered(); ++p) {
    const Piece& piece = plan.gathered(p);
    check_columns(problem.order, problem.columns, piece.left, piece.left_size);
    check_columns(problem.order, problem.columns, piece.right, piece.size - piece.left_size);
  }
}

PathRows weigh_rows(const PathLogLossCall& call, const PathArrays& paths) {
  const int64_t num_rows = num_rows_of(call.logits), columns = call.logits.size(1);
  const int64_t num_targets = paths.num_targets;
  const int64_t* target = call.target.const_data_ptr<int64_t>();
  const double* target_weight =
      call.target_weight ? call.target_weight->const_data_ptr<double>() : nullptr;

  PathRows rows;
  rows.factor.resize(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    const int64_t t = target[row];
    if (t == call.ignore_index) continue;
    HACE_CHECK_INDEX(t >= 0 && t < num_targets, "target ", t, " of row ", row,
                     " is out of range: it must be in [0, ", num_targets, ")");
    check_path(paths, columns, t, row);
    rows.max_entries = std::max(rows.max_entries, paths.ptr[t + 1] - paths.ptr[t]);
    rows.factor[row] = target_weight ? target_weight[t] : 1.0;
    rows.total += rows.factor[row];
  }
  if (call.reduction == kMean && rows.total != 0)
    for (double& factor : rows.factor) factor /= rows.total;
  return rows;
}

// Rows of at least this many columns are split among the threads if whole rows would leave more
// than a tenth of these idle. A single row always is: checking all of its table's order would take
// a third of the time of the row.
constexpr int64_t kSplitColumns = int64_t{1} << 17;

bool splits_rows(int64_t num_rows, int64_t columns, int64_t threads) {
  const int64_t rounds = (num_rows + threads - 1) / threads;
  return columns >= kSplitColumns && (num_rows == 1 || 10 * num_rows < 9 * rounds * threads);
}

thread_local Scratch thread_values;
thread_local Scratch thread_plan;

PathLogLossWorkspace workspace_of(const PathLogLossProblem& problem, int64_t max_entries,
                                  int64_t value_size) {
  return {thread_values.get(plan_values(problem) * value_size),
          thread_plan.get(plan_bytes(problem, max_entries))};
}

thread_local Scratch patch_logits;
thread_local Scratch patch_grad;

void run_patches(const PathLogLossCall& call, const PathLogLossKernel& kernel,
                 const PathLogLossProblem& whole, int64_t max_entries) {
  const Pixels pixels(call.logits);
  const bool past_caches = writes_pixels_past_caches(whole.grad, pixels);
  const int64_t value_size = work_size(pixels.element);
  for_patches(pixels, [&](const Patch& patch) {
    const SubnormalsAreZero guard;
    PathLogLossProblem problem = whole;
    problem.logits = rows_of(pixels, whole.logits, patch, patch_logits);
    problem.row_stride = pixels.row_stride();
    if (whole.grad) problem.grad = patch_grad.get(patch.count * pixels.columns * pixels.bytes);
    problem.target += patch.first;
    problem.factor += patch.first;
    problem.loss += patch.first;
    PathLogLossWorkspace workspace = workspace_of(problem, max_entries, value_size);
    kernel.run_rows(problem, 0, patch.count, workspace);
    if (whole.grad) put_rows(pixels, problem.grad, patch, whole.grad, past_caches);
  });
}

// Writes the unweighted loss of each row to `loss` and, unless null, the gradient times
// `rows.factor` to `grad`.
void run(const PathLogLossCall& call, const PathArrays& paths, const PathRows& rows, double* loss,
         void* grad) {
  const Element element = element_of(call.logits);
  const PathLogLossKernel kernel = HACE_BEST_KERNEL(path_log_loss_kernel, element);
  const int64_t num_rows = num_rows_of(call.logits);
  const int64_t columns = call.logits.size(1);

  PathLogLossProblem problem;
  problem.logits = call.logits.const_data_ptr();
  problem.row_stride = call.logits.stride(0);
  problem.columns = columns;
  problem.grad = grad;
  problem.ptr = paths.ptr;
  problem.start = paths.start;
  problem.stop = paths.stop;
  problem.weight = paths.weight;
  problem.order = paths.order;
  problem.position = paths.position;
  problem.rings = paths.rings;
  problem.entropy = call.entropy;
  problem.eps = call.eps;
  problem.target = call.target.const_data_ptr<int64_t>();
  problem.factor = rows.factor.data();
  problem.loss = loss;
  const int64_t row_bytes = columns * static_cast<int64_t>(call.logits.element_size());
  problem.most_intervals_in_lanes = most_intervals_in_lanes(problem, rows.max_entries);
  problem.past_caches = false;
  const int64_t threads = torch::stable::get_num_threads();
  const bool is_split = call.logits.dim() == 2 && splits_rows(num_rows, columns, threads);
  if (problem.order && !is_split) check_columns(problem.order, columns, 0, columns);
  if (call.logits.dim() == 3) return run_patches(call, kernel, problem, rows.max_entries);
  // In shorter rows, the lines that gathered columns are then scattered to are still in the caches.
  problem.past_caches =
      (!problem.order || is_beyond_l2(problem)) && writes_past_caches(grad, num_rows, row_bytes);

  const int64_t value_size = work_size(element);
  if (is_split) {
    PathLogLossWorkspace workspace = workspace_of(problem, rows.max_entries, value_size);
    for (int64_t row = 0; row < num_rows; ++row) {
      if (problem.factor[row] == 0) {
        kernel.run_rows(problem, row, row + 1, workspace);
        continue;
      }
      const Plan& plan = make_plan(problem, row, workspace);
      check_gathered(problem, plan);
      const int stages = num_stages(problem, plan);
      for (int stage = 0; stage < stages; ++stage)
        parallel_for(0, stage_units(plan, stage), 1, [&](int64_t first, int64_t last) {
          const SubnormalsAreZero guard;
          kernel.run_stage(problem, workspace, stage, first, last);
        });
    }
    return;
  }
  const int64_t at_a_time = rows_at_a_time(problem);
  const int64_t num_units = (num_rows + at_a_time - 1) / at_a_time;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(columns * at_a_time, 1));
  parallel_for(0, num_units, grain, [&](int64_t first, int64_t last) {
    const SubnormalsAreZero guard;
    PathLogLossWorkspace workspace = workspace_of(problem, rows.max_entries, value_size);
    kernel.run_rows(problem, first * at_a_time, std::min(last * at_a_time, num_rows), workspace);
  });
}

std::tuple<Tensor, Tensor> path_log_loss(const PathLogLossCall& call, bool with_grad) {
  const Tensor& logits = call.logits;
  const PathArrays paths = check(call);
  const PathRows rows = weigh_rows(call, paths);
  std::vector<double> loss(num_rows_of(logits));
  Tensor grad =
      new_tensor(with_grad ? shape_of(logits) : std::vector<int64_t>{0}, logits.scalar_type());
  run(call, paths, rows, loss.data(), with_grad ? grad.mutable_data_ptr() : nullptr);
  return {reduced_loss(logits, loss, rows, call.reduction), grad};
}

Tensor path_log_loss_backward(const Tensor& grad_loss, const PathLogLossCall& call) {
  const Tensor& logits = call.logits;
  const PathArrays paths = check(call);
  PathRows rows = weigh_rows(call, paths);
  scale_by_incoming(rows, grad_loss, call.reduction);
  std::vector<double> loss(num_rows_of(logits));
  Tensor grad = new_tensor(shape_of(logits), logits.scalar_type());
  run(call, paths, rows, loss.data(), grad.mutable_data_ptr());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  implement_loss<PathLogLossCall, path_log_loss, path_log_loss_backward>(m, "path_log_loss");
}

}  // namespace hace
