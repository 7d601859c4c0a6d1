// `dag_log_loss` on the CPU, for targets that are indices: log-loss at the target's node and its
// ancestors in a graph where nodes may have several parents.
//
// A row's mass rises from its targets along their ancestors alone, of which there are some dozens:
// node v keeps q_v. Positions are numbered so that the columns at or below a node are few
// intervals, and the ends of all these nodes' intervals cut the row into pieces, each whole in some
// of the nodes and outside the others. With E_i the sum of exp(z) over piece i, S_v that over the
// pieces in v and S that over all,
//
//     L = -sum_v q_v log(S_v / S) = sum_v q_v log(1 + (S - S_v) / S_v)
//
// where S - S_v is the sum over the other pieces, which costs no digits, and for column j in piece
// i
//
//     dL/dz_j = exp(z_j) (sum_{v not over i} q_v / S - sum_{v over i} q_v (S - S_v) / (S S_v)).
//
// Each piece has its own largest logit, so that nothing underflows; the sums of pieces are float64,
// relative to the row's largest, and a node that lies too far below it has a largest of its own.
// The columns below a node without mass share its gradient evenly. With eps the loss of v is
// -q_v log(P_v + eps), whose gradient is the above with q_v P_v / (P_v + eps) for q_v.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "dag_log_loss_kernel.h"
#include "errors.h"
#include "isa.h"
#include "parallel.h"
#include "ranges.h"
#include "rows.h"
#include "scratch.h"
#include "subnormals.h"
#include "tree_log_loss_arguments.h"
#include "weigh_rows.h"

namespace hace {
namespace {

using Call = TreeLogLossCall;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Sums of exponentials relative to the row's largest are exact to rounding above this.
constexpr double kTooSmall = 1e-280;
// Longer pieces are cut, so that float32 sums lose few digits.
constexpr int64_t kPieceColumns = 16384;

// ---- arguments ----

// A ClosureTable (hace_kernels/closure_table.py, which says what the arrays hold).
struct Dag {
  int64_t num_columns;
  int64_t num_nodes;
  const int32_t* order;  // null: positions are columns
  const int32_t* interval_ptr;
  const int32_t* start;
  const int32_t* stop;
  const int32_t* parent_ptr;
  const int32_t* parent;
  const int32_t* height;
};

constexpr const char* kNoDag = "dag_log_loss: the arrays are not those of a ClosureTable";

bool is_ptr(const int32_t* ptr, int64_t size, int64_t total) {
  if (ptr[0] != 0 || ptr[size] != total) return false;
  for (int64_t i = 0; i < size; ++i)
    if (ptr[i] > ptr[i + 1]) return false;
  return true;
}

Dag bind_dag(const std::vector<Tensor>& table) {
  STD_TORCH_CHECK(table.size() >= 7, kNoDag);
  Dag dag;
  dag.num_columns = table[0].numel();
  dag.num_nodes = table[6].numel();
  const int64_t num_intervals = table[2].numel(), num_edges = table[5].numel();
  dag.order = int32_vector("table.order", table[0]);
  dag.interval_ptr = int32_vector("table.interval_ptr", table[1], dag.num_nodes + 1);
  dag.start = int32_vector("table.start", table[2]);
  dag.stop = int32_vector("table.stop", table[3], num_intervals);
  dag.parent_ptr = int32_vector("table.parent_ptr", table[4], dag.num_nodes + 1);
  dag.parent = int32_vector("table.parent", table[5]);
  dag.height = int32_vector("table.height", table[6]);
  // The intervals of a node are ascending and apart, and parents are higher than children.
  bool sound = is_ptr(dag.interval_ptr, dag.num_nodes, num_intervals) &&
               is_ptr(dag.parent_ptr, dag.num_nodes, num_edges) &&
               all_within(dag.order, dag.num_columns, 0, dag.num_columns) &&
               (num_edges == 0 || all_within(dag.parent, num_edges, 0, dag.num_nodes));
  STD_TORCH_CHECK(sound, kNoDag);
  for (int64_t v = 0; v < dag.num_nodes; ++v) {
    int32_t end = 0;
    for (int64_t i = dag.interval_ptr[v]; i < dag.interval_ptr[v + 1]; ++i) {
      sound = sound && dag.start[i] >= end && dag.stop[i] > dag.start[i];
      end = dag.stop[i];
    }
    sound = sound && end <= dag.num_columns;
    for (int64_t e = dag.parent_ptr[v]; e < dag.parent_ptr[v + 1]; ++e)
      sound = sound && dag.height[dag.parent[e]] > dag.height[v];
  }
  STD_TORCH_CHECK(sound, kNoDag);
  bool ordered = true;
  for (int64_t c = 0; c < dag.num_columns; ++c) ordered = ordered && dag.order[c] == c;
  if (ordered) dag.order = nullptr;
  return dag;
}

// ---- a row ----

// A node that keeps some of the row's mass.
struct Kept {
  int32_t node;
  double q;
};

// What a thread needs for a row; kept between rows.
class RowWork {
 public:
  void start(const Dag& dag) {
    mass_.assign(dag.num_nodes, 0);
    seen_.assign(dag.num_nodes, false);
    ends_.assign(dag.num_columns / 64 + 1, 0);
  }

  // Lets the mass of the row's targets rise; the nodes that keep any.
  const std::vector<Kept>& rise(const Dag& dag, const Targets& targets, int64_t row) {
    nodes_.clear();
    kept_.clear();
    for (int64_t k = 0; k < targets.num_indices; ++k) {
      const int64_t at = row * targets.num_indices + k;
      const int64_t target = targets.index[at];
      const double weight = targets.index_weight ? targets.index_weight[at] : 1;
      if (target == targets.ignore_index || weight == 0) continue;
      const int32_t place = targets.target_place[target];
      meet(place);
      mass_[place] += weight * targets.share[target];
    }
    for (size_t i = 0; i < nodes_.size(); ++i)
      for (int64_t e = dag.parent_ptr[nodes_[i]]; e < dag.parent_ptr[nodes_[i] + 1]; ++e)
        meet(dag.parent[e]);
    std::sort(nodes_.begin(), nodes_.end(), [&](int32_t a, int32_t b) {
      return std::make_pair(dag.height[a], a) < std::make_pair(dag.height[b], b);
    });
    for (const int32_t v : nodes_) {
      const int64_t first = dag.parent_ptr[v], last = dag.parent_ptr[v + 1];
      const double mass = mass_[v], q = targets.keep[v] * mass;
      for (int64_t e = first; e < last; ++e)
        mass_[dag.parent[e]] += (1 - targets.keep[v]) / static_cast<double>(last - first) * mass;
      if (q != 0) kept_.push_back({v, q});
      mass_[v] = 0;
      seen_[v] = false;
    }
    return kept_;
  }

  // Cuts the row at the ends of all intervals of the nodes that keep mass.
  void cut(const Dag& dag) {
    std::fill(ends_.begin(), ends_.end(), 0);
    const auto end_at = [&](int64_t position) {
      ends_[position / 64] |= uint64_t{1} << (position % 64);
    };
    for (int64_t p = 0; p < dag.num_columns; p += kPieceColumns) end_at(p);
    end_at(dag.num_columns);
    for (const Kept& kept : kept_)
      for (int64_t i = dag.interval_ptr[kept.node]; i < dag.interval_ptr[kept.node + 1]; ++i) {
        end_at(dag.start[i]);
        end_at(dag.stop[i]);
      }
    bound.clear();
    for (size_t word = 0; word < ends_.size(); ++word)
      for (uint64_t bits = ends_[word]; bits; bits &= bits - 1)
        bound.push_back(static_cast<int32_t>(64 * word + __builtin_ctzll(bits)));
    const size_t num_pieces = bound.size() - 1;
    for (auto* each : {&max, &sum, &scale, &beside, &factor, &offset}) each->assign(num_pieces, 0);
  }

  // The row's loss; with `factor` and `offset` of each piece, times `times`.
  double resolve(const Dag& dag, double eps, double times) {
    const size_t num_pieces = sum.size();
    double top = -kInfinity, all = 0, loss = 0;
    for (const double each : max) top = each > top ? each : top;
    for (size_t i = 0; i < num_pieces; ++i) {
      scale[i] = sum[i] == 0 ? 0 : std::exp(max[i] - top);
      all += scale[i] * sum[i];
    }
    if (!(all > 0)) {  // no softmax
      const double nan = std::numeric_limits<double>::quiet_NaN();
      std::fill(factor.begin(), factor.end(), nan);
      return nan;
    }
    for (const Kept& kept : kept_) loss += add(dag, kept, eps, top, all);
    for (size_t i = 0; i < num_pieces; ++i) {
      factor[i] = times * (scale[i] / all * beside[i] - factor[i]);
      offset[i] *= times;
    }
    return loss;
  }

  std::vector<int32_t> bound;
  std::vector<double> max, sum;        // of each piece, from the kernel
  std::vector<double> factor, offset;  // of each piece, for the kernel

 private:
  void meet(int32_t node) {
    if (seen_[node]) return;
    seen_[node] = true;
    nodes_.push_back(node);
  }

  // Calls inside(i) or outside(i) for every piece, as it is below the node or not.
  template <typename Inside, typename Outside>
  void for_pieces(const Dag& dag, int32_t node, Inside inside, Outside outside) const {
    size_t i = 0;
    for (int64_t k = dag.interval_ptr[node]; k < dag.interval_ptr[node + 1]; ++k) {
      for (; bound[i] < dag.start[k]; ++i) outside(i);
      for (; bound[i] < dag.stop[k]; ++i) inside(i);
    }
    for (; i < sum.size(); ++i) outside(i);
  }

  // The loss at a node; what it says of the gradient goes to `beside`, `factor` and `offset`.
  double add(const Dag& dag, const Kept& kept, double eps, double top, double all) {
    double in = 0, out = 0, own_top = -kInfinity;
    int64_t columns = 0;
    for_pieces(
        dag, kept.node,
        [&](size_t i) {
          in += scale[i] * sum[i];
          if (sum[i] != 0 && max[i] > own_top) own_top = max[i];
          columns += bound[i + 1] - bound[i];
        },
        [&](size_t i) { out += scale[i] * sum[i]; });
    const bool dead = own_top == -kInfinity, far = !dead && in < kTooSmall;
    if (far) {
      in = 0;
      for_pieces(
          dag, kept.node, [&](size_t i) { in += far_scale(i, own_top) * sum[i]; }, [](size_t) {});
    }
    const double gap = far ? top - own_top : 0;
    double q = kept.q, loss;
    if (eps > 0) {
      const double p = dead ? 0 : std::exp(-gap) * in / all;
      loss = -q * std::log(p + eps);
      q *= p / (p + eps);
    } else if (dead) {
      loss = q * kInfinity;
    } else {
      loss = q * (far ? gap + std::log(out) - std::log(in) : std::log1p(out / in));
    }
    if (dead && eps == 0)
      for_pieces(
          dag, kept.node, [&](size_t i) { offset[i] -= q / static_cast<double>(columns); },
          [&](size_t i) { beside[i] += q; });
    else if (q != 0)
      for_pieces(
          dag, kept.node,
          [&](size_t i) {
            const double share = (far ? far_scale(i, own_top) : scale[i]) / in;
            factor[i] += q * (out / all) * share;
          },
          [&](size_t i) { beside[i] += q; });
    return loss;
  }

  double far_scale(size_t i, double own_top) const {
    return sum[i] == 0 ? 0 : std::exp(max[i] - own_top);
  }

  std::vector<double> mass_;
  std::vector<bool> seen_;
  std::vector<int32_t> nodes_;
  std::vector<Kept> kept_;
  std::vector<uint64_t> ends_;
  std::vector<double> scale;   // exp(max - the row's largest)
  std::vector<double> beside;  // sum of q over the nodes that a piece is not below
};

thread_local Scratch exps_memory;
thread_local RowWork work;

// ---- the op ----

struct Problem {
  Dag dag;
  Targets targets;
};

Problem problem_of(const Call& call) {
  Problem problem = {bind_dag(call.tree), {}};
  check_rows("dag_log_loss", call.logits);
  check_reduction("dag_log_loss", call.reduction);
  STD_TORCH_CHECK(call.logits.size(1) == problem.dag.num_columns, "dag_log_loss: logits must have ",
                  problem.dag.num_columns, " columns, got ", call.logits.size(1));
  bind_table(call, problem.dag.num_nodes, problem.targets);
  bind_rows(call, problem.targets);
  const Targets& targets = problem.targets;
  STD_TORCH_CHECK(
      targets.index && !targets.spread && !targets.log_similarity && targets.row_spread == 0,
      "dag_log_loss: targets are indices, and put nothing on other classes");
  return problem;
}

// The losses go to `loss` unweighted, one per row; the gradient to `grad`, unless null, weighted by
// `rows.factor`.
void run(const Call& call, const Problem& problem, const Rows& rows, double* loss, void* grad) {
  const Element element = element_of(call.logits);
  const DagLogLossKernel kernel = HACE_BEST_KERNEL(dag_log_loss_kernel, element);
  const Dag& dag = problem.dag;
  const int64_t size = static_cast<int64_t>(call.logits.element_size());
  const int64_t row_bytes = dag.num_columns * size;
  const char* const logits = static_cast<const char*>(call.logits.const_data_ptr());
  const int64_t stride = call.logits.stride(0) * size;
  parallel_for(0, call.logits.size(0), 1, [&](int64_t first, int64_t last) {
    const SubnormalsAreZero guard;
    work.start(dag);
    void* const exps = exps_memory.get(dag.num_columns * kernel.real_bytes + 64);
    for (int64_t row = first; row < last; ++row) {
      char* const to = grad ? static_cast<char*>(grad) + row * row_bytes : nullptr;
      if (rows.factor[row] == 0) {
        if (to) std::memset(to, 0, row_bytes);
        continue;
      }
      work.rise(dag, problem.targets, row);
      work.cut(dag);
      const DagRow one = {logits + row * stride,
                          dag.order,
                          exps,
                          dag.num_columns,
                          static_cast<int64_t>(work.sum.size()),
                          work.bound.data()};
      kernel.measure(one, work.max.data(), work.sum.data());
      loss[row] = work.resolve(dag, call.eps, rows.factor[row]);
      if (to) kernel.write(one, work.factor.data(), work.offset.data(), to);
    }
  });
}

std::tuple<Tensor, Tensor> dag_log_loss(const Call& call, bool with_grad) {
  const Tensor& logits = call.logits;
  const Problem problem = problem_of(call);
  const Rows rows =
      weigh_rows(problem.targets, logits.size(0), problem.dag.num_nodes, call.reduction);
  std::vector<double> loss(logits.size(0));
  Tensor grad =
      torch::stable::new_empty(logits, with_grad ? shape_of(logits) : std::vector<int64_t>{0});
  run(call, problem, rows, loss.data(), with_grad ? grad.mutable_data_ptr() : nullptr);
  return {reduced_loss(logits, loss, rows, call.reduction), grad};
}

Tensor dag_log_loss_backward(const Tensor& grad_loss, const Call& call) {
  const Tensor& logits = call.logits;
  const Problem problem = problem_of(call);
  Rows rows = weigh_rows(problem.targets, logits.size(0), problem.dag.num_nodes, call.reduction);
  scale_by_incoming(rows, grad_loss, call.reduction);
  std::vector<double> loss(logits.size(0));
  Tensor grad = torch::stable::new_empty(logits, shape_of(logits));
  run(call, problem, rows, loss.data(), grad.mutable_data_ptr());
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("dag_log_loss", &boxed_loss<Call, dag_log_loss>);
  m.impl("dag_log_loss_backward", &boxed_backward<Call, dag_log_loss_backward>);
}

}  // namespace hace
