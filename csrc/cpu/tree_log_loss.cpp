// `tree_log_loss` on the CPU: checks and binds the arguments, prepares what all rows share, divides
// the work among threads. The arithmetic is in tree_log_loss_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "errors.h"
#include "first_fault.h"
#include "isa.h"
#include "new_tensor.h"
#include "patches.h"
#include "rows.h"
#include "scratch.h"
#include "subnormals.h"
#include "tree_arguments.h"
#include "tree_log_loss_arguments.h"
#include "tree_log_loss_kernel.h"
#include "weigh_rows.h"

namespace hace {
namespace {

using Call = TreeLogLossCall;

// ---- arguments ----

bool are_columns(const TreeLogLossProblem& problem) {
  if (problem.num_targets != problem.tree.num_classes) return false;
  if (problem.kept_of_column) return true;
  int32_t others = 0;
  for (int64_t target = 0; target < problem.num_targets; ++target)
    others |= problem.target_place[target] ^ static_cast<int32_t>(target);
  return others == 0;
}

// Whether every column is the place of a target, and no place is that of two targets.
bool covers_columns(const TreeLogLossProblem& problem) {
  std::vector<bool> taken(problem.tree.num_places());
  int64_t num_columns = 0;
  for (int64_t target = 0; target < problem.num_targets; ++target) {
    const int32_t place = problem.target_place[target];
    if (place < 0) continue;
    if (taken[place]) return false;
    taken[place] = true;
    num_columns += place < problem.tree.num_classes;
  }
  return num_columns == problem.tree.num_classes;
}

void check_places(const TreeLogLossProblem& problem) {
  STD_TORCH_CHECK(all_within(problem.target_place, problem.num_targets, -1, problem.tree.root()),
                  kNoPlace);
}

// Checks the links that the block kernel follows and that rows that go one by one do not.
void check_for_blocks(const TreeLogLossProblem& problem) {
  check_column_parents(problem.tree);
  check_children(problem.tree);
  if (problem.mass) check_places(problem);
}

TreeLogLossProblem problem_of(const Call& call) {
  TreeLogLossProblem problem = {};
  problem.tree = bind_tree(call.tree);
  check_inner_parents(problem.tree);
  check_logits(call, problem.tree);
  static_cast<Targets&>(problem) = bind_targets(call, problem.tree);
  problem.mass_is_by_column = call.mass && are_columns(problem);
  if (call.mass && !problem.mass_is_by_column) check_places(problem);
  problem.mass_covers_columns = problem.mass_is_by_column || (call.mass && covers_columns(problem));
  problem.logits = call.logits.const_data_ptr();
  problem.row_stride = call.logits.stride(0);
  problem.eps = call.eps;
  return problem;
}

// ---- what all rows share ----

thread_local Scratch shared_memory;
// The mass at each place once 1 on every class has risen: that of the table, or computed here.
template <typename Real>
void bind_risen(TreeLogLossProblem& problem, double* reaching, Real* kept_unit,
                int32_t* classes_below) {
  const Tree& tree = problem.tree;
  if (problem.reaching_of_table) {
    problem.reaching = problem.reaching_of_table;
  } else {
    check_column_parents(tree);
    std::memcpy(reaching, problem.unit, tree.num_places() * sizeof(double));
    for (int64_t place = 0; place < tree.root(); ++place)
      reaching[tree.parent[place]] += (1 - problem.keep[place]) * reaching[place];
    problem.reaching = reaching;
  }
  if (std::is_same_v<Real, float> && problem.kept_unit_of_table) {
    problem.kept_unit = problem.kept_unit_of_table;
  } else {
    for (int64_t place = 0; place < tree.root(); ++place)
      kept_unit[place] = static_cast<Real>(problem.keep[place] * problem.reaching[place]);
    kept_unit[tree.root()] = 0;
    problem.kept_unit = kept_unit;
  }
  if (!problem.log_similarity) return;
  problem.classes_below = problem.classes_below_of_table;
  if (problem.classes_below) return;
  check_column_parents(tree);
  for (int64_t place = 0; place < tree.num_places(); ++place)
    classes_below[place] = problem.is_class[place] > 0;
  for (int64_t place = 0; place < tree.root(); ++place)
    classes_below[tree.parent[place]] += classes_below[place];
  problem.classes_below = classes_below;
}

// Computes what follows from the targets' arrays for the whole tree, in the working type; for the
// block kernel also the arrays that it needs by place.
template <typename Real>
void prepare(TreeLogLossProblem& problem, bool for_blocks) {
  const Tree& tree = problem.tree;
  const int64_t num_places = tree.num_places();
  char* memory = static_cast<char*>(
      shared_memory.get(num_places * (sizeof(double) + 3 * sizeof(Real) + sizeof(int32_t))));
  double* reaching = reinterpret_cast<double*>(memory);
  Real* kept = reinterpret_cast<Real*>(reaching + num_places);
  Real* handed = kept + num_places;
  Real* kept_unit = handed + num_places;
  int32_t* classes_below = reinterpret_cast<int32_t*>(kept_unit + num_places);

  if (problem.mass && for_blocks) {
    for (int64_t place = 0; place < num_places; ++place) {
      kept[place] = static_cast<Real>(problem.keep[place]);
      handed[place] = static_cast<Real>(1 - problem.keep[place]);
    }
    problem.kept = kept;
    problem.handed = handed;
  }
  problem.spreads = problem.spread || problem.row_spread != 0 || problem.log_similarity;
  if (problem.spreads) bind_risen(problem, reaching, kept_unit, classes_below);
}

void prepare(Element element, TreeLogLossProblem& problem, bool for_blocks) {
  element == Element::kFloat64 ? prepare<double>(problem, for_blocks)
                               : prepare<float>(problem, for_blocks);
}

// ---- the op ----

// A block takes the same time however many of its lanes are used, so few rows go one by one. A row
// by itself takes a sixth of a block's time if the block's lines are in the L1 cache, a tenth if
// they are in the L2 cache, and a fourteenth if they are beyond. This depends on the whole batch,
// so that a row's result does not depend on its place in it.
bool are_few(int64_t num_rows, const TreeLogLossKernel& kernel, const TreeLogLossProblem& problem) {
  const int64_t bytes = kernel.num_lines(problem) * kernel.line_bytes;
  const int64_t most = bytes <= int64_t{32} << 10 ? 6 : bytes <= int64_t{4} << 20 ? 9 : 12;
  const int64_t num_blocks = (num_rows + kernel.block_rows - 1) / kernel.block_rows;
  return 16 * num_rows <= most * num_blocks * kernel.block_rows;
}

// Works on rows one by one, and returns those that it leaves to the block kernel.
std::vector<int64_t> run_one_by_one(const TreeLogLossKernel& kernel, TreeLogLossProblem& problem,
                                    Element element, const std::vector<int64_t>& rows,
                                    FirstFault& first_fault) {
  prepare(element, problem, false);
  std::vector<int64_t> left;
  std::mutex mutex;
  for_blocks(static_cast<int64_t>(rows.size()), 1, kernel.row_bytes(problem),
             [&](int64_t first, int64_t, void* values) {
               const SubnormalsAreZero guard;
               TreeLogLossFault fault;
               const bool done = kernel.run_row(problem, rows[first], values, &fault);
               first_fault.add(fault, fault.row);
               if (done) return;
               const std::lock_guard<std::mutex> lock(mutex);
               left.push_back(rows[first]);
             });
  std::sort(left.begin(), left.end());
  return left;
}

void run_rows(const TreeLogLossKernel& kernel, TreeLogLossProblem& problem, Element element,
              int64_t num_rows, int64_t row_bytes, FirstFault& first_fault) {
  std::vector<int64_t> rows = counting_rows(problem.factor, problem.grad, num_rows, row_bytes);
  problem.past_caches = writes_past_caches(problem.grad, num_rows, row_bytes);
  const int64_t num_counting = static_cast<int64_t>(rows.size());
  if (are_few(num_counting, kernel, problem) && kernel.takes_row_by_row(problem))
    rows = run_one_by_one(kernel, problem, element, rows, first_fault);
  if (rows.empty()) return;
  first_fault.check();
  check_for_blocks(problem);
  prepare(element, problem, true);
  for_blocks(static_cast<int64_t>(rows.size()), kernel.block_rows,
             kernel.num_lines(problem) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               const SubnormalsAreZero guard;
               TreeLogLossFault fault;
               kernel.run(problem, rows.data() + first, count, lines, &fault);
               first_fault.add(fault, fault.row);
             });
}

thread_local Scratch patch_logits, patch_mass, patch_grad;

void run_patches(const Call& call, const TreeLogLossKernel& kernel, const TreeLogLossProblem& whole,
                 int64_t row_bytes, FirstFault& first_fault) {
  const Pixels pixels(call.logits);
  const std::optional<Pixels> masses = call.mass ? std::optional<Pixels>(*call.mass) : std::nullopt;
  const bool past_caches = writes_pixels_past_caches(whole.grad, pixels);
  for_patches(pixels, [&](const Patch& patch) {
    const SubnormalsAreZero guard;
    TreeLogLossProblem problem = whole;
    problem.logits = rows_of(pixels, whole.logits, patch, patch_logits);
    problem.row_stride = pixels.row_stride();
    if (masses) {
      problem.mass = rows_of(*masses, whole.mass, patch, patch_mass);
      problem.mass_stride = masses->row_stride();
    }
    if (whole.grad) problem.grad = patch_grad.get(patch.count * row_bytes);
    if (whole.index) problem.index += patch.first * whole.num_indices;
    if (whole.index_weight) problem.index_weight += patch.first * whole.num_indices;
    problem.factor += patch.first;
    problem.loss += patch.first;
    const std::vector<int64_t> counting =
        counting_rows(problem.factor, problem.grad, patch.count, row_bytes);
    const int64_t num_counting = static_cast<int64_t>(counting.size());
    void* const lines = thread_lines.get(kernel.num_lines(problem) * kernel.line_bytes);
    for (int64_t first = 0; first < num_counting; first += kernel.block_rows) {
      TreeLogLossFault fault;
      kernel.run(problem, counting.data() + first,
                 std::min(kernel.block_rows, num_counting - first), lines, &fault);
      first_fault.add(fault, patch.first + fault.row);
    }
    if (whole.grad) put_rows(pixels, problem.grad, patch, whole.grad, past_caches);
  });
}

// Writes the unweighted loss of each row to `loss` and, unless null, the gradient times
// `rows.factor` to `grad`.
void run(const Call& call, TreeLogLossProblem& problem, const Rows& rows, double* loss,
         void* grad) {
  const Element element = element_of(call.logits);
  const TreeLogLossKernel kernel = HACE_BEST_KERNEL(tree_log_loss_kernel, element);
  const int64_t row_bytes =
      problem.tree.num_classes * static_cast<int64_t>(call.logits.element_size());
  problem.grad = grad;
  problem.factor = rows.factor.data();
  problem.loss = loss;
  FirstFault first_fault;
  if (call.logits.dim() == 3) {
    check_for_blocks(problem);
    prepare(element, problem, true);
    run_patches(call, kernel, problem, row_bytes, first_fault);
  } else {
    run_rows(kernel, problem, element, call.logits.size(0), row_bytes, first_fault);
  }
  first_fault.check();
}

std::tuple<Tensor, Tensor> tree_log_loss(const Call& call, bool with_grad) {
  const Tensor& logits = call.logits;
  TreeLogLossProblem problem = problem_of(call);
  const Rows rows = weigh_rows(problem, num_rows_of(logits), problem.tree.root(), call.reduction);
  std::vector<double> loss(num_rows_of(logits));
  Tensor grad =
      new_tensor(with_grad ? shape_of(logits) : std::vector<int64_t>{0}, logits.scalar_type());
  run(call, problem, rows, loss.data(), with_grad ? grad.mutable_data_ptr() : nullptr);
  return {reduced_loss(logits, loss, rows, call.reduction), grad};
}

Tensor tree_log_loss_backward(const Tensor& grad_loss, const Call& call) {
  const Tensor& logits = call.logits;
  TreeLogLossProblem problem = problem_of(call);
  Rows rows = weigh_rows(problem, num_rows_of(logits), problem.tree.root(), call.reduction);
  scale_by_incoming(rows, grad_loss, call.reduction);
  std::vector<double> loss(num_rows_of(logits));
  Tensor grad = new_tensor(shape_of(logits), logits.scalar_type());
  run(call, problem, rows, loss.data(), grad.mutable_data_ptr());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  implement_loss<Call, tree_log_loss, tree_log_loss_backward>(m, "tree_log_loss");
}

}  // namespace hace
