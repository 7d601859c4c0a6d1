// `dag_log_loss` on the CPU: checks and binds the arguments, prepares what all rows share, divides
// the work among threads. Rows go in blocks of as many as a vector has lanes
// (dag_block_kernel.cpp). The mass of targets that are indices rises along their ancestors only.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "dag_block_kernel.h"
#include "dag_checks.h"
#include "dag_rise.h"
#include "dag_shares.h"
#include "errors.h"
#include "first_fault.h"
#include "isa.h"
#include "new_tensor.h"
#include "parallel.h"
#include "rows.h"
#include "scratch.h"
#include "subnormals.h"
#include "tree_log_loss_arguments.h"
#include "weigh_rows.h"

namespace hace {
namespace {

using Call = TreeLogLossCall;

// What follows from a call's arguments without the rows, with the checks of their values. Bound
// arguments keep it.
struct Prepared {
  Dag dag;
  DagPlan plan;
  Targets targets;                               // those of the table
  std::shared_ptr<Derived> units[2], shares[2];  // by whether numbers are float64

  explicit Prepared(const Call& call)
      : dag(dag_of(call.tree)), plan(plan_of(dag, call.tree)), targets{} {
    check_children(dag, call.tree[5].numel());
    check_reduction("dag_log_loss", call.reduction);
    bind_table(call, dag.num_nodes, targets);
    STD_TORCH_CHECK(
        !targets.log_similarity,
        "dag_log_loss: soft labels need lowest common ancestors, which a DAG does not have");
    for (int wide = 0; wide < 2; ++wide) {
      units[wide] = std::make_shared<Derived>();
      shares[wide] = std::make_shared<Derived>();
    }
  }

  template <typename Real>
  const DagUnits<Real>& units_of() const {
    return units[sizeof(Real) == 8]->get<DagUnits<Real>>(
        [&] { return DagUnits<Real>(dag, targets); });
  }

  template <typename Real>
  const DagShares<Real>& shares_of() const {
    return shares[sizeof(Real) == 8]->get<DagShares<Real>>([&] {
      STD_TORCH_CHECK(
          all_within_or_none(targets.target_place, targets.num_targets, -1, dag.num_nodes),
          kNoPlace);
      return DagShares<Real>(dag, plan, targets);
    });
  }
};

struct Problem {
  const Prepared& prepared;
  const Dag& dag;
  Targets targets;

  bool spreads() const { return targets.spread || targets.row_spread != 0; }
};

Problem problem_of(const Call& call) {
  const Prepared& prepared = call.derived->get<Prepared>([&] { return Prepared(call); });
  Problem problem = {prepared, prepared.dag, prepared.targets};
  check_rows("dag_log_loss", call.logits);
  STD_TORCH_CHECK(call.logits.size(1) == problem.dag.num_columns, "dag_log_loss: logits must have ",
                  problem.dag.num_columns, " columns, got ", call.logits.size(1));
  bind_rows(call, problem.targets);
  return problem;
}

// Where results go: the rows' unweighted losses and, unless null, their gradients times the rows'
// factors.
struct Results {
  const Rows& rows;
  double* loss;
  void* grad;
};

// The mass that the targets of some rows put on places.
class BlockTargets {
 public:
  void start(const Dag& dag) { rising_.start(dag); }

  DagBlockRows of(const Problem& problem, const double* kept_unit, const int64_t* row,
                  int64_t count) {
    on_every_class_.assign(count, 0);
    own_.clear();
    const Targets& targets = problem.targets;
    for (int64_t lane = 0; targets.index && lane < count; ++lane) {
      on_every_class_[lane] = targets.row_spread;
      for (int64_t k = 0; targets.spread && k < targets.num_indices; ++k) {
        const int64_t at = row[lane] * targets.num_indices + k;
        const int64_t target = targets.index[at];
        const double weight = targets.index_weight ? targets.index_weight[at] : 1;
        if (target != targets.ignore_index && weight != 0)
          on_every_class_[lane] += weight * targets.spread[target];
      }
      for (const Kept& kept : rising_.run(problem.dag, targets, row[lane])) {
        const int32_t place = problem.dag.spanning.place[kept.node];
        if (place < 0) continue;
        const double spread = kept_unit ? on_every_class_[lane] * kept_unit[place] : 0;
        const double q = spread + kept.q;
        // What every class gets may be cancelled at a target that smoothing leaves out: then
        // exactly 0 has to be left.
        const bool cancels = targets.spread && std::fabs(q) <= 0x1p-44 * std::fabs(spread);
        own_.push_back({static_cast<int32_t>(lane), place, cancels ? 0 : q});
      }
    }
    return {row, count, on_every_class_.data(), own_.data(), static_cast<int64_t>(own_.size())};
  }

 private:
  Rise rising_;
  std::vector<double> on_every_class_;
  std::vector<DagOwn> own_;
};

thread_local BlockTargets block_targets;

// Works on rows by `dag_lanes.h`; returns those whose masses are too far apart for it.
std::vector<int64_t> run_lanes(const DagBlockKernel& kernel, const Problem& problem,
                               const DagBlockProblem& block, const std::vector<int64_t>& rows,
                               FirstFault& first_fault) {
  std::vector<int64_t> left;
  std::mutex mutex;
  for_blocks(static_cast<int64_t>(rows.size()), kernel.block_rows,
             kernel.num_lanes_lines(block) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               const SubnormalsAreZero guard;
               BlockTargets& targets = block_targets;
               targets.start(problem.dag);
               bool left_out[kMaxLanes] = {};
               TreeLogLossFault fault;
               kernel.run_lanes(block,
                                targets.of(problem, block.kept_unit, rows.data() + first, count),
                                lines, left_out, &fault);
               first_fault.add(fault, fault.row);
               for (int64_t lane = 0; lane < count; ++lane)
                 if (left_out[lane]) {
                   const std::lock_guard<std::mutex> lock(mutex);
                   left.push_back(rows[first + lane]);
                 }
             });
  std::sort(left.begin(), left.end());
  return left;
}

// Works on rows by dag_block_kernel.cpp.
template <typename Real>
void run_left(const DagBlockKernel& kernel, const Problem& problem, DagBlockProblem& block,
              const std::vector<int64_t>& rows, FirstFault& first_fault) {
  const DagParts<Real> parts(problem.dag, problem.targets);
  parts.bind(block);
  for_blocks(static_cast<int64_t>(rows.size()), kernel.block_rows,
             kernel.num_lines(block) * kernel.line_bytes,
             [&](int64_t first, int64_t count, void* lines) {
               const SubnormalsAreZero guard;
               BlockTargets& targets = block_targets;
               targets.start(problem.dag);
               TreeLogLossFault fault;
               kernel.run(block, targets.of(problem, block.kept_unit, rows.data() + first, count),
                          lines, &fault);
               first_fault.add(fault, fault.row);
             });
}

template <typename Real>
void run_blocks(const Call& call, const Problem& problem, const Results& results) {
  const DagBlockKernel kernel = HACE_BEST_KERNEL(dag_block_kernel, element_of(call.logits));
  const Dag& dag = problem.dag;
  DagBlockProblem block = {};
  static_cast<Targets&>(block) = problem.targets;
  block.spanning = dag.spanning;
  block.logits = call.logits.const_data_ptr();
  block.row_stride = call.logits.stride(0);
  block.grad = results.grad;
  block.eps = call.eps;
  block.factor = results.rows.factor.data();
  block.loss = results.loss;
  block.plan = problem.prepared.plan;
  if (problem.spreads()) problem.prepared.units_of<Real>().bind(block);
  if (block.mass && call.eps == 0) problem.prepared.shares_of<Real>().bind(block);

  const int64_t num_rows = call.logits.size(0);
  const int64_t row_bytes = dag.num_columns * static_cast<int64_t>(call.logits.element_size());
  block.past_caches = writes_past_caches(block.grad, num_rows, row_bytes);
  std::vector<int64_t> rows = counting_rows(block.factor, block.grad, num_rows, row_bytes);
  FirstFault first_fault;
  if (call.eps == 0) rows = run_lanes(kernel, problem, block, rows, first_fault);
  if (!rows.empty()) run_left<Real>(kernel, problem, block, rows, first_fault);
  first_fault.check();
}

// ---- the op ----

void run(const Call& call, const Problem& problem, const Results& results) {
  if (call.logits.scalar_type() == ScalarType::Double)
    run_blocks<double>(call, problem, results);
  else
    run_blocks<float>(call, problem, results);
}

std::tuple<Tensor, Tensor> dag_log_loss(const Call& call, bool with_grad) {
  const Tensor& logits = call.logits;
  const Problem problem = problem_of(call);
  const Rows rows =
      weigh_rows(problem.targets, logits.size(0), problem.dag.num_nodes, call.reduction);
  std::vector<double> loss(logits.size(0));
  Tensor grad =
      new_tensor(with_grad ? shape_of(logits) : std::vector<int64_t>{0}, logits.scalar_type());
  run(call, problem, {rows, loss.data(), with_grad ? grad.mutable_data_ptr() : nullptr});
  return {reduced_loss(logits, loss, rows, call.reduction), grad};
}

Tensor dag_log_loss_backward(const Tensor& grad_loss, const Call& call) {
  const Tensor& logits = call.logits;
  const Problem problem = problem_of(call);
  Rows rows = weigh_rows(problem.targets, logits.size(0), problem.dag.num_nodes, call.reduction);
  scale_by_incoming(rows, grad_loss, call.reduction);
  std::vector<double> loss(logits.size(0));
  Tensor grad = new_tensor(shape_of(logits), logits.scalar_type());
  run(call, problem, {rows, loss.data(), grad.mutable_data_ptr()});
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  implement_loss<Call, dag_log_loss, dag_log_loss_backward>(m, "dag_log_loss");
}

}  // namespace hace
