// `dag_log_loss` of a block of rows whose masses are not too far apart: one maximum per row.
//
// With e_j = exp(z_j - max), S_v the sum of these below v, W = sum_v q_v, and a_v = q_v / S_v,
//
//   L = W log S - sum_v q_v log S_v,     dL/dz_j = e_j (W / S - sum_{v above j} a_v)
//
// over all nodes v of the DAG but the columns' own, for which the second term is -q_j and log P_j
// is z_j - max - log S. At the places of the spanning tree, S_v is the sum of its children's, and
// what pulls at a column is a sum along its path. The columns below a mixed node x are those of its
// parts: S_x is the sum of theirs, and a_x is added at each of them. So there is one exponential
// per column, and all else is sums.
//
// Rows with a sum that is needed and too small for that are left to dag_block_kernel.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "dag_block_kernel.h"
#include "dag_mass.h"
#include "tree_sweeps.h"

namespace {

enum class DagTargets {
  kOwn,         // indices: rows have mass of their own at some nodes only
  kEverywhere,  // indices that put alpha on every class too
  kMass,
};

template <typename Stored, DagTargets kTargets>
struct DagLanes {
  static constexpr bool kEverywhere = kTargets == DagTargets::kEverywhere;
  static constexpr bool kMass = kTargets == DagTargets::kMass;

  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int kRows = Lanes<Real>::kCount;
  static constexpr Real kSmallest = sizeof(Real) == 4 ? Real(0x1p-64) : Real(0x1p-900);
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

  const hace::DagBlockProblem& problem;
  const hace::DagBlockRows& rows;
  const hace::SpanningTree& spanning;
  const Tree& tree;
  const int count;
  const Real* const unit;  // by place: what it keeps of 1 on every class; kEverywhere only
  // By place: exponentials and their sums; then q / S where there is a sum; then, at places of the
  // tree, the factor of the exponentials below them.
  Line* const line;
  Line* const mixed;     // the same at mixed nodes
  bool* const left_out;  // by lane
  DagMass<Real> given;   // kMass only
  Line alpha = {};       // what every class gets
  Line row_top = broadcast(std::numeric_limits<Real>::lowest());
  Line smallest = broadcast(kInfinity);  // the smallest of the sums that are needed
  // The sums of q log S and of q over all places; of kEverywhere the first only, per unit of alpha.
  WideSum<Real> log_sums = {}, masses = {};
  double total[kRows] = {}, lost[kRows] = {};

  static int64_t num_lines(const hace::DagBlockProblem& problem) {
    return (kMass ? 2 : 1) * problem.spanning.num_places();
  }

  DagLanes(const hace::DagBlockProblem& problem, const hace::DagBlockRows& rows, void* memory,
           bool* left_out)
      : problem(problem),
        rows(rows),
        spanning(problem.spanning),
        tree(problem.spanning.tree),
        count(static_cast<int>(rows.count)),
        unit(static_cast<const Real*>(problem.kept_unit_of_line)),
        line(static_cast<Line*>(memory)),
        mixed(line + tree.num_places()),
        left_out(left_out),
        given(problem, rows, line + spanning.num_places()) {}

  // Works on all rows but those that are `left_out`.
  void run(hace::TreeLogLossFault* fault) {
    if constexpr (kMass) {
      given.load(fault);
      given.rise();
    }
    for (int lane = 0; lane < count; ++lane)
      alpha[lane] = static_cast<Real>(rows.on_every_class[lane]);
    const LaneRows<Stored> logits(problem.logits, problem.row_stride, rows.row, count);
    load_columns(logits, tree.num_classes, [&](int64_t column, Line x) {
      row_top = max(x, row_top);
      line[column] = x;
    });
    sum_up();
    const Line all = line[tree.root()];
    sum_mixed();
    look_at_own(logits);
    divide();
    put_own();
    resolve(all);
    if (problem.grad && std::count(left_out, left_out + count, true) < count) write(all);
  }

 private:
  // By entry of rows.own: q / S.
  static std::vector<Real>& own_ratios() {
    thread_local std::vector<Real> ratios;
    return ratios;
  }

  // Replaces logits by exponentials, and adds these up at inner places.
  void sum_up() {
    Line run_logits = {}, run_masses = {};
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      const int32_t* child = tree.child + tree.child_ptr[v];
      const int32_t* const end = tree.child + tree.child_ptr[v + 1];
      WideSum<Real> wide;
      Line narrow = {};
      const bool one_run = end - child <= kRun;
      while (child < end) {
        const int32_t* const run_end = end - child < kRun ? end : child + kRun;
        narrow = Line{};
        for (; child < run_end && *child < tree.num_classes; ++child) {
          const Line x = line[*child] - row_top;
          if constexpr (kEverywhere)
            if (unit[*child] != 0) run_logits += unit[*child] * x;
          if constexpr (kMass) {
            const Line q = given.mass[*child] = given.kept(*child);
            run_masses += q;
            run_logits += q == 0 ? Line{} : q * x;
          }
          narrow += line[*child] = exp_of_difference(line[*child], row_top, x);
        }
        for (; child < run_end; ++child) narrow += line[*child];
        if (!one_run) wide.add(narrow);
        if constexpr (kTargets != DagTargets::kOwn) log_sums.add(run_logits);
        if constexpr (kMass) masses.add(run_masses);
        run_logits = run_masses = Line{};
      }
      line[tree.num_classes + v] = one_run ? narrow : wide.narrow();
    }
  }

  Line sum_of_parts(int64_t x) const {
    const int32_t* part = spanning.part + spanning.part_ptr[x];
    const int32_t* const end = spanning.part + spanning.part_ptr[x + 1];
    WideSum<Real> wide;
    while (end - part > kRun) {
      Line narrow = {};
      for (const int32_t* const run_end = part + kRun; part < run_end; ++part)
        narrow += line[*part];
      wide.add(narrow);
    }
    Line narrow = {};
    for (; part < end; ++part) narrow += line[*part];
    if (spanning.part_ptr[x + 1] - spanning.part_ptr[x] <= kRun) return narrow;
    wide.add(narrow);
    return wide.narrow();
  }

  // Computes the sums of mixed nodes at which rows keep mass. Those of others are not needed, and
  // nothing pulls there.
  void sum_mixed() {
    if constexpr (kTargets != DagTargets::kOwn) {
      for (int64_t x = 0; x < spanning.num_mixed; ++x) mixed[x] = sum_of_parts(x);
    } else {
      // A sum of exponentials is not negative.
      for (int64_t x = 0; x < spanning.num_mixed; ++x) mixed[x] = broadcast(Real(-1));
      for (int64_t i = 0; i < rows.num_own; ++i) {
        const int64_t x = rows.own[i].place - tree.num_places();
        if (x >= 0 && mixed[x][0] == -1) mixed[x] = sum_of_parts(x);
      }
    }
  }

  // Adds the loss at the rows' own places that their share of alpha does not account for.
  void look_at_own(const LaneRows<Stored>& logits) {
    std::vector<Real>& ratios = own_ratios();
    ratios.clear();
    for (int64_t i = 0; i < rows.num_own; ++i) {
      const auto& [lane, place, q] = rows.own[i];
      const double more = kEverywhere ? q - double(alpha[lane] * unit[place]) : q;
      total[lane] += kEverywhere ? q - rows.on_every_class[lane] * problem.kept_unit[place] : q;
      double log_sum, ratio = 0;
      if (place < tree.num_classes) {
        log_sum = double(load_first(logits.row[lane] + place, 1)[0]) - double(row_top[lane]);
      } else {
        const double sum = line[place][lane];
        if (!(sum >= kSmallest)) left_out[lane] = true;
        log_sum = std::log(sum);
        ratio = q / sum;
      }
      if (more != 0) lost[lane] += more * log_sum;
      if (kEverywhere && !(log_sum > -kInfinity)) left_out[lane] = true;
      ratios.push_back(static_cast<Real>(ratio));
    }
  }

  // Replaces the sums by what pulls at their places.
  void divide() {
    if constexpr (kTargets == DagTargets::kOwn) {
      for (int64_t place = tree.num_classes; place < spanning.num_places(); ++place)
        line[place] = Line{};
    } else {
      Line run_logs = {}, run_masses = {};
      int64_t in_run = 0;
      const auto turn = [&](int64_t place) {
        const Line sum = line[place];
        if constexpr (kEverywhere) {
          if (unit[place] == 0) {
            line[place] = Line{};
            return;
          }
          smallest = sum >= smallest ? smallest : sum;  // a NaN comes through
          run_logs += unit[place] * log_of<Real>(sum);
          line[place] = alpha * unit[place] / sum;
        } else {
          const Line q = given.kept(place);
          smallest = q == 0 ? smallest : sum >= smallest ? smallest : sum;
          run_logs += q == 0 ? Line{} : q * log_of<Real>(sum);
          run_masses += q;
          line[place] = q == 0 ? Line{} : q / sum;
        }
        if (++in_run % kRun != 0) return;
        log_sums.add(run_logs);
        masses.add(run_masses);
        run_logs = run_masses = Line{};
      };
      for (int64_t place = tree.num_classes; place < tree.root(); ++place) turn(place);
      for (int64_t x = 0; x < spanning.num_mixed; ++x) turn(tree.num_places() + x);
      log_sums.add(run_logs);
      masses.add(run_masses);
    }
  }

  void put_own() {
    const std::vector<Real>& ratios = own_ratios();
    for (int64_t i = 0; i < rows.num_own; ++i) {
      const hace::DagOwn& own = rows.own[i];
      if (own.place >= tree.num_classes) line[own.place][own.lane] = ratios[i];
    }
  }

  void resolve(Line all) {
    if constexpr (kMass)
      for (int lane = 0; lane < kRows; ++lane) total[lane] = masses.lane(lane);
    for (int lane = 0; lane < count; ++lane) {
      if (!(all[lane] >= Real(0.5)) || !(smallest[lane] >= kSmallest)) left_out[lane] = true;
      double loss = lost[lane];
      if constexpr (kEverywhere) {
        const double spread = rows.on_every_class[lane] * problem.total_unit;
        total[lane] += spread;
        // All of it may have been cancelled: then nothing is left.
        if (std::fabs(total[lane]) <= 0x1p-44 * std::fabs(spread)) total[lane] = 0;
        const double everywhere = log_sums.lane(lane);
        if (!(everywhere > -kInfinity)) left_out[lane] = true;
        loss += double(alpha[lane]) * everywhere;
      }
      if constexpr (kMass) {
        loss = log_sums.lane(lane);
        if (!(loss > -kInfinity)) left_out[lane] = true;
      }
      problem.loss[rows.row[lane]] = total[lane] * std::log(double(all[lane])) - loss;
    }
  }

  void write(Line all) {
    Line of_total = {}, factor = {};
    for (int lane = 0; lane < count; ++lane) {
      of_total[lane] = static_cast<Real>(total[lane] / all[lane]);
      factor[lane] = static_cast<Real>(problem.factor[rows.row[lane]]);
    }
    line[tree.root()] = of_total;
    for (int64_t place = tree.root() - 1; place >= tree.num_classes; --place)
      line[place] = line[tree.parent[place]] - line[place] - handed_by_mixed(place);

    std::vector<hace::DagOwn>& on_columns = sorted_own_columns();
    const hace::DagOwn* next = on_columns.data();
    store_columns<Stored>(problem.grad, tree.num_classes, rows.row, count, problem.past_caches,
                          [&](int64_t column) {
                            const Line pull = line[tree.parent[column]] - handed_by_mixed(column);
                            Line q = {};
                            if constexpr (kEverywhere) q = alpha * unit[column];
                            if constexpr (kMass) q = given.mass[column];
                            for (; next->place == column; ++next)
                              q[next->lane] = static_cast<Real>(next->q);
                            return (line[column] * pull - q) * factor;
                          });
  }

  Line handed_by_mixed(int64_t place) const {
    Line all = {};
    for (int32_t i = spanning.holder_ptr[place]; i < spanning.holder_ptr[place + 1]; ++i)
      all += mixed[spanning.holder[i]];
    return all;
  }

  // What rows keep on columns, in ascending order, with a sentinel after the last.
  std::vector<hace::DagOwn>& sorted_own_columns() const {
    thread_local std::vector<hace::DagOwn> found;
    found.clear();
    for (int64_t i = 0; i < rows.num_own; ++i)
      if (rows.own[i].place < tree.num_classes) found.push_back(rows.own[i]);
    std::sort(found.begin(), found.end(),
              [](const hace::DagOwn& a, const hace::DagOwn& b) { return a.place < b.place; });
    found.push_back({0, std::numeric_limits<int32_t>::max(), 0});
    return found;
  }
};

}  // namespace
