#include "path_rings.h"

#include <cmath>
#include <limits>

namespace hace {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double scale_between(double a, double b) { return a == b ? 1 : std::exp(a - b); }

// sum_j p_j log p_j. The moments about each piece's maximum are first moved to the total's maximum,
// M = lse - log S.
double negative_entropy(const Plan& plan, LogSum total) {
  double moment = 0;
  for (int64_t p = 0; p < plan.num_pieces; ++p) {
    const Piece& piece = plan.pieces[p];
    if (piece.sum == 0) continue;
    const double gap = piece.max - total.max;
    if (std::exp(gap) == 0) continue;  // the gap itself may be infinite
    moment += std::exp(gap) * (piece.moment + gap * piece.sum);
  }
  return moment / total.sum - std::log(total.sum);
}

double resolve_exactly(const PathLogLossProblem& problem, Plan& plan) {
  const int64_t num_intervals = plan.num_rings - 1;
  Ring* const rings = plan.rings;
  const int64_t first = problem.ptr[problem.target[plan.row]];

  // The loss of an interval without mass is infinite, and its weight in the gradient is spread
  // evenly over the interval's columns.
  int64_t alive = 0;
  double loss = 0;
  for (; alive < num_intervals && rings[alive].inside.sum == 0; ++alive)
    loss += rings[alive].weight * kInfinity;
  double offset = 0;
  for (int64_t r = num_intervals; r >= 0; --r) {
    if (r < alive) offset -= rings[r].weight / (problem.stop[first + r] - problem.start[first + r]);
    rings[r].offset = offset;
  }

  // -log P_i is the sum of log(inside_{k+1} / inside_k) over k >= i. Each step counts with the
  // weights of all intervals inside it, so that nothing cancels.
  double a = 0, a_alive = 0;
  for (int64_t r = 0; r < num_intervals; ++r) {
    rings[r].a = a;
    a += rings[r].weight;
    if (r < alive) continue;
    a_alive += rings[r].weight;
    rings[r].added = ratio(rings[r + 1].mass, rings[r].inside);
    loss += a_alive * log_one_plus_ratio(rings[r + 1].mass, rings[r].inside, rings[r].added);
  }
  rings[num_intervals].a = a;

  double b = 0, outside = 0;  // outside is 1 - P_r
  rings[num_intervals].b = 0;
  for (int64_t r = num_intervals - 1; r >= 0; --r) {
    if (r < alive) {
      rings[r].b = 0;
      continue;
    }
    const double added = rings[r].added;
    const double kept = 1 / (1 + added);  // exp(lse_r - lse_{r+1})
    const double lost = added < 1e300 ? added / (1 + added) : 1;
    outside = lost + kept * outside;
    b = rings[r].weight * outside + kept * b;
    rings[r].b = b;
  }
  return loss;
}

// With L = -sum_i w_i log(P_i + eps) and c_i = w_i / (P_i + eps):
//   dL/dz_j = p_j (sum_{i < r} c_i P_i - sum_{i >= r} c_i (1 - P_i))   for j in ring r.
double resolve_with_eps(const PathLogLossProblem& problem, Plan& plan) {
  const int64_t num_intervals = plan.num_rings - 1;
  Ring* const rings = plan.rings;
  const LogSum total = rings[num_intervals].inside;
  double loss = 0, inner = 0;
  for (int64_t r = 0; r < num_intervals; ++r) {
    const double p = rings[r].inside.sum == 0 ? 0 : ratio(rings[r].inside, total);
    rings[r].a = inner;
    rings[r].b = p;
    inner += rings[r].weight * p / (p + problem.eps);
    loss -= rings[r].weight * std::log(p + problem.eps);
  }
  double outer = 0, outside = 0;
  rings[num_intervals].a = inner;
  for (int64_t r = num_intervals; r >= 0; --r) {
    if (r < num_intervals) {
      const double p = rings[r].b;
      outside += rings[r + 1].mass.sum == 0 ? 0 : ratio(rings[r + 1].mass, total);
      outer += rings[r].weight / (p + problem.eps) * outside;
    }
    rings[r].a -= outer;
    rings[r].b = 0;
    rings[r].offset = 0;
  }
  return loss;
}

}  // namespace

// Computes the loss and every piece's factor from the pieces' sums.
void resolve_rings(const PathLogLossProblem& problem, Plan& plan) {
  const int64_t num_intervals = plan.num_rings - 1;
  Ring* const rings = plan.rings;
  for (int64_t r = 0; r < plan.num_rings; ++r) rings[r].mass = {0, 0};
  for (int64_t p = 0; p < plan.num_pieces; ++p) {
    const Piece& piece = plan.pieces[p];
    rings[piece.ring].mass = merge(rings[piece.ring].mass, {piece.max, piece.sum});
  }
  rings[0].inside = rings[0].mass;
  for (int64_t r = 1; r < plan.num_rings; ++r)
    rings[r].inside = merge(rings[r - 1].inside, rings[r].mass);
  const LogSum total = rings[num_intervals].inside;

  if (problem.eps > 0)
    problem.loss[plan.row] = resolve_with_eps(problem, plan);
  else
    problem.loss[plan.row] = resolve_exactly(problem, plan);
  const double entropy = problem.entropy != 0 ? negative_entropy(plan, total) : 0;
  problem.loss[plan.row] += problem.entropy * entropy;
  if (!(total.sum > 0)) problem.loss[plan.row] = kNaN;
  if (!problem.grad) return;

  const double row_factor = problem.factor[plan.row], of_total = 1 / total.sum;
  for (int64_t p = 0; p < plan.num_pieces; ++p) {
    Piece& piece = plan.pieces[p];
    const Ring& ring = rings[piece.ring];
    double factor = 0;
    if (piece.sum != 0) factor = ring.a * of_total * scale_between(piece.max, total.max);
    if (piece.sum != 0 && ring.b != 0)
      factor -= ring.b / ring.inside.sum * scale_between(piece.max, ring.inside.max);
    piece.factor = total.sum > 0 ? row_factor * factor : kNaN;
    piece.offset = row_factor * ring.offset;
    piece.slope = 0;
    if (problem.entropy == 0 || piece.sum == 0) continue;
    piece.slope = row_factor * problem.entropy * of_total * scale_between(piece.max, total.max);
    piece.middle = (total.max - piece.max) + std::log(total.sum) + entropy;
  }
}

}  // namespace hace
