// `dag_log_loss` of one row whose targets are few indices, on the CPU.
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
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "dag.h"
#include "dag_rise.h"

namespace hace {

// What a thread needs for a row; kept between rows.
class DagRowWork {
 public:
  void start(const Dag& dag) { ends_.assign(dag.num_columns / 64 + 1, 0); }

  // Cuts the row at the ends of all intervals of the nodes that keep mass.
  void cut(const Dag& dag, const std::vector<Kept>& kept) {
    std::fill(ends_.begin(), ends_.end(), 0);
    const auto end_at = [&](int64_t position) {
      ends_[position / 64] |= uint64_t{1} << (position % 64);
    };
    for (int64_t p = 0; p < dag.num_columns; p += kPieceColumns) end_at(p);
    end_at(dag.num_columns);
    for (const Kept& each : kept)
      for (int64_t i = dag.interval_ptr[each.node]; i < dag.interval_ptr[each.node + 1]; ++i) {
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
  double resolve(const Dag& dag, const std::vector<Kept>& kept, double eps, double times) {
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
    for (const Kept& each : kept) loss += add(dag, each, eps, top, all);
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
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // Sums of exponentials relative to the row's largest are exact to rounding above this.
  static constexpr double kTooSmall = 1e-280;
  // Longer pieces are cut, so that float32 sums lose few digits.
  static constexpr int64_t kPieceColumns = 16384;

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

  std::vector<uint64_t> ends_;
  std::vector<double> scale;   // exp(max - the row's largest)
  std::vector<double> beside;  // sum of q over the nodes that a piece is not below
};

}  // namespace hace
