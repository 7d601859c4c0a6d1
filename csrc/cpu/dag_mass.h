// Targets of `dag_log_loss` that are mass, for a block of rows: what each place keeps of it.
#pragma once

#include "dag_block_kernel.h"
#include "tree_sweeps.h"

namespace {

template <typename Real>
struct DagMass {
  using Line = Vector<Real>;

  const hace::DagBlockProblem& problem;
  const hace::DagBlockRows& rows;
  Line* const mass;  // by place, mixed ones included: what is put there, then what reaches it
  Line alpha = {};   // what every class gets

  DagMass(const hace::DagBlockProblem& problem, const hace::DagBlockRows& rows, Line* mass)
      : problem(problem), rows(rows), mass(mass) {}

  void load(hace::TreeLogLossFault* fault) {
    const hace::SpanningTree& spanning = problem.spanning;
    const int count = static_cast<int>(rows.count);
    for (int64_t place = 0; place < spanning.num_places(); ++place) mass[place] = Line{};
    WideSum<Real> on_every_class;
    Line run = {};
    const LaneRows<Real> targets(problem.mass, problem.mass_stride, rows.row, count);
    load_columns(targets, problem.num_targets, [&](int64_t target, Line t) {
      if (problem.spread) run += t * static_cast<Real>(problem.spread[target]);
      if (target % kRun == kRun - 1) {
        on_every_class.add(run);
        run = Line{};
      }
      const int32_t node = problem.target_place[target];
      const int32_t place = node < 0 ? -1 : spanning.place[node];
      if (place >= 0)
        mass[place] += t * static_cast<Real>(problem.share[target]);
      else
        for (int lane = 0; lane < count; ++lane)
          if (t[lane] != 0 && (fault->row < 0 || rows.row[lane] < fault->row))
            *fault = {rows.row[lane], target};
    });
    on_every_class.add(run);
    alpha = on_every_class.narrow() + static_cast<Real>(problem.row_spread);
  }

  // m_v += sum over children c of (1 - keep_c) / (c's parents) m_c
  void rise() {
    const hace::SpanningTree& spanning = problem.spanning;
    const Real* const handed = static_cast<const Real*>(problem.handed);
    for (int64_t i = 0; i < problem.num_with_children; ++i) {
      const int32_t v = problem.with_children[i];
      const int32_t* child = spanning.child + spanning.child_ptr[v];
      const int32_t* const end = spanning.child + spanning.child_ptr[v + 1];
      WideSum<Real> wide;
      Line narrow = {};
      for (int64_t n = 1; child < end; ++child, ++n) {
        if (spanning.place[*child] >= 0) narrow += mass[spanning.place[*child]] * handed[*child];
        if (n % kRun == 0) {
          wide.add(narrow);
          narrow = Line{};
        }
      }
      wide.add(narrow);
      if (spanning.place[v] >= 0) mass[spanning.place[v]] += wide.narrow();
    }
  }

  Line kept(int64_t place) const {
    const Line own = mass[place] * static_cast<const Real*>(problem.kept)[place];
    if (!problem.kept_unit) return own;
    const Line spread = alpha * static_cast<const Real*>(problem.kept_unit_of_line)[place];
    const Line q = own + spread;
    // What every class gets and what targets are spared may cancel: then nothing is left.
    constexpr Real kRounding = sizeof(Real) == 4 ? Real(0x1p-20) : Real(0x1p-44);
    return problem.spread && any(own != 0) ? nothing_if_below(q, kRounding * spread) : q;
  }

 private:
  static Line nothing_if_below(Line q, Line bound) {
    return max(q, -q) <= max(bound, -bound) ? Line{} : q;
  }
};

}  // namespace
