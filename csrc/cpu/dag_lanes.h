// `dag_log_loss` of a block of rows whose masses are not too far apart: one maximum per row.
//
// With e_j = exp(z_j - max), S_v the sum of these below v, W = sum_v q_v, and a_v = q_v / S_v,
//
//   L = W log S - sum_v q_v log S_v,     dL/dz_j = e_j (W / S - sum_{v above j} a_v)
//
// over all nodes v of the DAG but the columns' own, for which the second term is -q_j and log P_j
// is z_j - max - log S. (Where exponentials are relative to a power of 2 instead, RowExp, its
// distance from the maximum is added.) At the places of the spanning tree, S_v is the sum of its
// children's, and what pulls at a column is a sum along its path. The columns below a mixed node x
// are those of its parts: S_x is the sum of theirs, and a_x is added at each of them. So there is
// one exponential per column, and all else is sums.
//
// The columns are passed in tiles of as many as a vector has lanes. A tile's exponentials are
// computed row by row, transposed, and added to the lines of the columns' parents, as the DagPlan
// says. On the way back the lines of the parents are transposed, and all else is row by row again.
// Memory traffic of a block of rows in float32: the logits are read twice and the exponentials are
// written and read once, in the order of the columns; so is the mass of probabilities, twice. Only
// the lines of inner places and mixed nodes are visited in another order.
//
// Rows with a sum that is needed and too small for that are left to dag_block_kernel.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "dag_block_kernel.h"
#include "tree_sweeps.h"

namespace {

enum class DagTargets {
  kOwn,         // indices: rows have mass of their own at some nodes only
  kEverywhere,  // indices that put alpha on every class too
  kMass,
};

// Exponentials relative to a row's maximum, or to a power of 2 that is close to it: e^x / 2^n0.
template <typename Real>
struct RowExp {
#if defined(__FMA__)
  static constexpr bool kPower = sizeof(Real) == 4;
#else
  static constexpr bool kPower = false;
#endif
  Vector<Real> top, lowest = {}, n0 = {};
  double beyond = 0;  // log of what they are relative to, minus top

  RowExp() = default;
  explicit RowExp(Real of_row) : top(broadcast(of_row)) {
    if constexpr (kPower) {
      const double power = std::nearbyint(double(of_row) * 0x1.71547652b82fep0);
      n0 = broadcast(static_cast<Real>(power));
      lowest = broadcast(of_row - static_cast<Real>(kReach));
      beyond = std::fma(power, 0x1.62e42fefa39efp-1, -double(of_row));
    }
  }

  bool is_exact() const { return !kPower || std::fabs(top[0]) < 0x1p17f; }

  Vector<Real> of(Vector<Real> x) const {
    if constexpr (kPower)
      return exp_over_power(x, lowest, n0);
    else
      return exp_of_difference(x, top, x - top);
  }
};

// A line per inner place, mixed node and slot.
template <typename Real>
inline void clear(Vector<Real>* lines, int64_t count) {
  for (int64_t i = 0; i < count; ++i) lines[i] = Vector<Real>{};
}

template <typename Stored, DagTargets kTargets>
struct DagLanes {
  static constexpr bool kOwn = kTargets == DagTargets::kOwn;
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
  const hace::DagPlan& plan;
  const Tree& tree;
  const int count;
  const LaneRows<Stored> logits;
  const LaneRows<Real> targets;
  // By place: what it keeps of 1 on every class, and of the mass that reaches it.
  const Real* const unit;
  const Real* const kept;
  // The exponentials, tile by tile: a vector of columns per row.
  Line* const tiles;
  // By inner place and mixed node: sums of exponentials; then q / S where there is a sum; then the
  // factor of the exponentials below. After them slots.
  Line* const line;
  Line* const mixed;
  Line* const mass;       // kMass only: by inner place and mixed node, and slots
  Line* const on_column;  // by column, if targets are not the columns: what targets put there
  bool* const left_out;   // by lane
  Line alpha = {};        // what every class gets
  Line smallest = broadcast(kInfinity);  // the smallest of the sums that are needed
  // The sums of q log S and of q over all places; of kEverywhere the first only, per unit of alpha.
  WideSum<Real> log_sums = {}, masses = {};
  double total[kRows] = {}, lost[kRows] = {}, own_lost[kRows] = {};
  RowExp<Real> exps[kRows];

  static int64_t num_tiles(const hace::DagBlockProblem& problem) {
    return (problem.spanning.tree.num_classes + kRows - 1) / kRows;
  }
  static int64_t num_lines(const hace::DagBlockProblem& problem) {
    const hace::DagPlan& plan = problem.plan;
    int64_t lines = num_tiles(problem) * kRows + plan.num_lines + plan.num_slots;
    if (kMass) lines += plan.num_lines + plan.num_mass_slots;
    if (kMass && !problem.mass_is_by_column) lines += problem.spanning.tree.num_classes;
    return lines;
  }

  DagLanes(const hace::DagBlockProblem& problem, const hace::DagBlockRows& rows, void* memory,
           bool* left_out)
      : problem(problem),
        rows(rows),
        spanning(problem.spanning),
        plan(problem.plan),
        tree(problem.spanning.tree),
        count(static_cast<int>(rows.count)),
        logits(problem.logits, problem.row_stride, rows.row, count),
        targets(problem.mass, problem.mass_stride, rows.row, count),
        unit(static_cast<const Real*>(problem.kept_unit_of_line)),
        kept(static_cast<const Real*>(problem.kept_with_share)),
        tiles(static_cast<Line*>(memory)),
        line(tiles + num_tiles(problem) * kRows),
        mixed(line + tree.num_inner),
        mass(line + plan.num_lines + plan.num_slots),
        on_column(mass + plan.num_lines + plan.num_mass_slots),
        left_out(left_out) {}

  // Works on all rows but those that are `left_out`.
  void run(hace::TreeLogLossFault* fault) {
    for (int lane = 0; lane < count; ++lane)
      alpha[lane] = static_cast<Real>(rows.on_every_class[lane]);
    if constexpr (kMass) load_mass(fault);
    find_tops();
    clear<Real>(line, plan.num_lines + plan.num_slots);
    pass_columns();
    if constexpr (kMass) rise();
    sum_up();
    const Line all = line[tree.num_inner - 1];
    sum_mixed();
    look_at_own();
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

  // Calls step(first, count) for all tiles of columns.
  template <typename Step>
  void for_tiles(Step step) const {
    int64_t column = 0;
    for (; column + kRows <= tree.num_classes; column += kRows)
      step(column, std::integral_constant<int64_t, kRows>{});
    if (column < tree.num_classes) step(column, tree.num_classes - column);
  }

  // ---- mass ----

  // Reads what targets put on every class and, where they are not the columns in their order, all
  // that they put on places.
  void load_mass(hace::TreeLogLossFault* fault) {
    clear<Real>(mass, plan.num_lines + plan.num_mass_slots);
    if (problem.spread || problem.row_spread != 0)
      for (int lane = 0; lane < count; ++lane)
        alpha[lane] = static_cast<Real>(problem.row_spread + spread_of(targets.row[lane]));
    if (problem.mass_is_by_column) return;
    clear<Real>(on_column, tree.num_classes);
    load_columns(targets, problem.num_targets, [&](int64_t target, Line t) {
      const int32_t node = problem.target_place[target];
      const int64_t place = node < 0 ? -1 : spanning.place[node];
      if (place >= 0) {
        Line& to = place < tree.num_classes ? on_column[place] : mass[place - tree.num_classes];
        to += t * static_cast<Real>(problem.share[target]);
        return;
      }
      for (int lane = 0; lane < count; ++lane)
        if (t[lane] != 0 && (fault->row < 0 || rows.row[lane] < fault->row))
          *fault = {rows.row[lane], target};
    });
  }

  double spread_of(const Real* row) const {
    double sum = 0;
    if (problem.spread)
      for (int64_t target = 0; target < problem.num_targets; ++target)
        sum += row[target] * problem.spread[target];
    return sum;
  }

  // The mass that reaches a tile's columns: of each row in `by_row`, of each column in `by_column`.
  template <typename Count>
  void load_tile(int64_t column, Count columns, Line* by_row, Line* by_column) const {
    if (problem.mass_is_by_column) {
      for (int lane = 0; lane < count; ++lane) {
        fetch_ahead(targets.row[lane] + column);
        by_row[lane] = load_first(targets.row[lane] + column, columns);
      }
      if (!by_column) return;
      for (int lane = 0; lane < kRows; ++lane) by_column[lane] = by_row[lane < count ? lane : 0];
      transpose<Real>(by_column);
    } else {
      Line lines[kRows] = {};
      for (int k = 0; k < columns; ++k) lines[k] = on_column[column + k];
      if (by_column)
        for (int k = 0; k < columns; ++k) by_column[k] = lines[k];
      transpose<Real>(lines);
      for (int lane = 0; lane < count; ++lane) by_row[lane] = lines[lane];
    }
  }

  // What is kept of mass where `kept_here` of it and `unit_here` of what every class gets are kept.
  Line kept_of(Line reached, Line kept_here, Line unit_here, Line on_every_class) const {
    const Line own = reached * kept_here;
    if (!problem.kept_unit) return own;
    const Line spread = on_every_class * unit_here;
    const Line q = own + spread;
    // What every class gets and what targets are spared may cancel: then nothing is left.
    constexpr Real kRounding = sizeof(Real) == 4 ? Real(0x1p-20) : Real(0x1p-44);
    if (!problem.spread || !any(own != 0)) return q;
    const Line bound = kRounding * spread;
    return max(q, -q) <= max(bound, -bound) ? Line{} : q;
  }

  template <typename Count>
  Line unit_of_tile(int64_t column, Count columns) const {
    return unit ? load_first(unit + column, columns) : Line{};
  }

  // Adds what columns hand to their parents.
  template <typename Count>
  void hand_up(int64_t column, Count columns, const Line* reached) {
    const Real* const handed = static_cast<const Real*>(problem.handed_with_share);
    for (int64_t c = column; c < column + columns; ++c) {
      const Line each = reached[c - column] * handed[c];
      for (int32_t i = plan.link_ptr[c]; i < plan.link_ptr[c + 1]; ++i) mass[plan.link[i]] += each;
    }
  }

  // Lets the mass of all other nodes rise.
  void rise() {
    const Real* const handed =
        static_cast<const Real*>(problem.handed_with_share) + tree.num_classes;
    const int32_t* const link_ptr = plan.link_ptr + tree.num_classes;
    for (int64_t i = 0; i < plan.num_rising; ++i) {
      Line& here = mass[plan.line[i]];
      add_slots(mass, plan.risen_ptr + i, here);
      const Line each = here * handed[i];
      for (int32_t l = link_ptr[i]; l < link_ptr[i + 1]; ++l) mass[plan.link[l]] += each;
    }
  }

  // ---- upwards ----

  void find_tops() {
    for (int lane = 0; lane < count; ++lane) {
      const Stored* const row = logits.row[lane];
      constexpr Real kLowest = std::numeric_limits<Real>::lowest();
      Line largest[4];
      for (Line& one : largest) one = broadcast(kLowest);
      int64_t c = 0;
      for (; c + 4 * kRows <= tree.num_classes; c += 4 * kRows)
        for (int i = 0; i < 4; ++i) largest[i] = max(load(row + c + i * kRows), largest[i]);
      for (; c + kRows <= tree.num_classes; c += kRows) largest[0] = max(load(row + c), largest[0]);
      if (c < tree.num_classes) {
        const int64_t left = tree.num_classes - c;
        largest[1] = max(first_lanes<Real>(load_first(row + c, left), left, kLowest), largest[1]);
      }
      const Line both = max(max(largest[0], largest[1]), max(largest[2], largest[3]));
      exps[lane] = RowExp<Real>(horizontal_max<Real>(both));
      if (!exps[lane].is_exact()) left_out[lane] = true;
    }
  }

  // Computes the exponentials and adds them to the lines of the columns' parents; adds the columns'
  // part of the loss.
  void pass_columns() {
    Line run_logits[kRows] = {}, run_masses[kRows] = {};
    const auto end_run = [&] {
      for (int lane = 0; lane < count; ++lane) {
        lost[lane] += horizontal_sum<Real>(run_logits[lane]);
        if constexpr (kMass) total[lane] += horizontal_sum<Real>(run_masses[lane]);
        run_logits[lane] = run_masses[lane] = Line{};
      }
    };
    for_tiles([&](int64_t column, auto columns) {
      Line* const tile = tiles + column;
      Line reached[kRows], to_parents[kRows], kept_here = {}, unit_here = {};
      if constexpr (kMass) {
        load_tile(column, columns, reached, to_parents);
        kept_here = load_first(kept + column, columns);
      }
      if constexpr (!kOwn) unit_here = unit_of_tile(column, columns);
      for (int lane = 0; lane < count; ++lane) {
        fetch_ahead(logits.row[lane] + column);
        const Line logit = load_first(logits.row[lane] + column, columns);
        const Line gap = logit - exps[lane].top;
        tile[lane] = exps[lane].of(logit);
        if constexpr (kEverywhere) run_logits[lane] += unit_here == 0 ? Line{} : unit_here * gap;
        if constexpr (kMass) {
          const Line q = kept_of(reached[lane], kept_here, unit_here, broadcast<Real>(alpha[lane]));
          run_masses[lane] += q;
          run_logits[lane] += q == 0 ? Line{} : q * gap;
        }
      }
      for (int lane = count; lane < kRows; ++lane) tile[lane] = tile[0];
      Line lines[kRows];
      for (int lane = 0; lane < kRows; ++lane) lines[lane] = tile[lane];
      transpose<Real>(lines);
      for (int k = 0; k < columns; ++k) line[plan.slot[column + k]] += lines[k];
      if constexpr (kMass) hand_up(column, columns, to_parents);
      if (!kOwn && column / kRows % kRun == kRun - 1) end_run();
    });
    if (kOwn) return;
    end_run();
    for (int lane = 0; lane < count; ++lane)
      lost[lane] -= (kMass ? total[lane] : problem.column_unit) * exps[lane].beyond;
  }

  // Adds the slots between two bounds to a line.
  void add_slots(const Line* lines, const int32_t* bounds, Line& to) const {
    if (bounds[0] == bounds[1]) return;
    WideSum<Real> wide;
    wide.add(to);
    for (int32_t i = bounds[0]; i < bounds[1]; ++i) wide.add(lines[plan.num_lines + i]);
    to = wide.narrow();
  }

  void sum_up() {
    const int32_t* const slot = plan.slot + tree.num_classes;
    for (int64_t v = 0; v < tree.num_inner; ++v) {
      add_slots(line, plan.slot_ptr + v, line[v]);
      if (v < tree.num_inner - 1) line[slot[v]] += line[v];
    }
  }

  Line sum_of_parts(int64_t x) const {
    const int32_t* part = plan.part_line + spanning.part_ptr[x];
    const int32_t* const end = plan.part_line + spanning.part_ptr[x + 1];
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
    if constexpr (!kOwn) {
      for (int64_t x = 0; x < spanning.num_mixed; ++x) mixed[x] = sum_of_parts(x);
    } else {
      // Until then they are 0; where a sum is 0 again, it is computed again.
      for (int64_t i = 0; i < rows.num_own; ++i) {
        const int64_t x = rows.own[i].place - tree.num_places();
        if (x >= 0 && !any(mixed[x] != 0)) mixed[x] = sum_of_parts(x);
      }
    }
  }

  // ---- the loss ----

  // Adds the loss at the rows' own places that their share of alpha does not account for.
  void look_at_own() {
    std::vector<Real>& ratios = own_ratios();
    ratios.clear();
    for (int64_t i = 0; i < rows.num_own; ++i) {
      const auto& [lane, place, q] = rows.own[i];
      const double more = kEverywhere ? q - double(alpha[lane] * unit[place]) : q;
      total[lane] += kEverywhere ? q - rows.on_every_class[lane] * problem.kept_unit[place] : q;
      double log_sum, ratio = 0;
      if (place < tree.num_classes) {
        log_sum = double(load_first(logits.row[lane] + place, 1)[0]) - double(exps[lane].top[0]) -
                  exps[lane].beyond;
      } else {
        const double sum = line[place - tree.num_classes][lane];
        if (!(sum >= kSmallest)) left_out[lane] = true;
        log_sum = std::log(sum);
        ratio = q / sum;
      }
      if (more != 0) own_lost[lane] += more * log_sum;
      if (kEverywhere && !(log_sum > -kInfinity)) left_out[lane] = true;
      ratios.push_back(static_cast<Real>(ratio));
    }
  }

  // Replaces the sums by what pulls at their places.
  void divide() {
    if constexpr (kOwn) {
      clear<Real>(line, plan.num_lines + plan.num_slots);
    } else {
      Line run_logs = {}, run_masses = {};
      for (int64_t l = 0; l < plan.num_lines; ++l) {
        if (l == tree.num_inner - 1) continue;  // the virtual root, which is not a node
        const int64_t place = tree.num_classes + l;
        const Line sum = line[l];
        if constexpr (kEverywhere) {
          if (unit[place] == 0) {
            line[l] = Line{};
          } else {
            smallest = sum >= smallest ? smallest : sum;  // a NaN comes through
            run_logs += unit[place] * log_of<Real>(sum);
            line[l] = alpha * unit[place] / sum;
          }
        } else {
          const Line q = kept_of(mass[l], broadcast(kept[place]),
                                 broadcast(unit ? unit[place] : Real(0)), alpha);
          smallest = q == 0 ? smallest : sum >= smallest ? smallest : sum;
          run_logs += q == 0 ? Line{} : q * log_of<Real>(sum);
          run_masses += q;
          line[l] = q == 0 ? Line{} : q / sum;
        }
        if (l % kRun == kRun - 1) {
          log_sums.add(run_logs);
          masses.add(run_masses);
          run_logs = run_masses = Line{};
        }
      }
      log_sums.add(run_logs);
      masses.add(run_masses);
      clear<Real>(line + plan.num_lines, plan.num_slots);
    }
  }

  void put_own() {
    const std::vector<Real>& ratios = own_ratios();
    for (int64_t i = 0; i < rows.num_own; ++i) {
      const hace::DagOwn& own = rows.own[i];
      if (own.place >= tree.num_classes) line[own.place - tree.num_classes][own.lane] = ratios[i];
    }
  }

  void resolve(Line all) {
    for (int lane = 0; lane < count && lane < kRows; ++lane) {
      if (!(all[lane] >= Real(0.5)) || !(smallest[lane] >= kSmallest)) left_out[lane] = true;
      double loss = own_lost[lane];
      if constexpr (kEverywhere) {
        const double spread = rows.on_every_class[lane] * problem.total_unit;
        total[lane] += spread;
        // All of it may have been cancelled: then nothing is left.
        if (std::fabs(total[lane]) <= 0x1p-44 * std::fabs(spread)) total[lane] = 0;
        const double everywhere = lost[lane] + log_sums.lane(lane);
        if (!(everywhere > -kInfinity)) left_out[lane] = true;
        loss += double(alpha[lane]) * everywhere;
      }
      if constexpr (kMass) {
        total[lane] += masses.lane(lane);
        loss = lost[lane] + log_sums.lane(lane);
        if (!(loss > -kInfinity)) left_out[lane] = true;
      }
      problem.loss[rows.row[lane]] = total[lane] * std::log(double(all[lane])) - loss;
    }
  }

  // ---- downwards ----

  void write(Line all) {
    Line factor[kRows], of_total = {};
    for (int lane = 0; lane < count; ++lane) {
      of_total[lane] = static_cast<Real>(total[lane] / all[lane]);
      factor[lane] = broadcast(static_cast<Real>(problem.factor[rows.row[lane]]));
    }
    pull_down_lines(of_total);

    Stored* grad[kRows];
    bool past_caches = problem.past_caches;
    for (int lane = 0; lane < count; ++lane) {
      grad[lane] = static_cast<Stored*>(problem.grad) + rows.row[lane] * tree.num_classes;
      // Stores past the caches are fast only for whole lines.
      if (reinterpret_cast<uintptr_t>(grad[lane]) % (kRows * sizeof(Stored))) past_caches = false;
    }
    for_tiles([&](int64_t column, auto columns) {
      const Line* const tile = tiles + column;
      Line pull[kRows], reached[kRows], kept_here = {}, unit_here = {};
      for (int k = 0; k < kRows; ++k) pull[k] = line[plan.slot[column + (k < columns ? k : 0)]];
      transpose<Real>(pull);
      if constexpr (kMass) {
        load_tile(column, columns, reached, nullptr);
        kept_here = load_first(kept + column, columns);
      }
      if constexpr (!kOwn) unit_here = unit_of_tile(column, columns);
      for (int lane = 0; lane < count; ++lane) {
        fetch_ahead<true>(grad[lane] + column);
        Line value = tile[lane] * pull[lane];
        if constexpr (kEverywhere) value -= alpha[lane] * unit_here;
        if constexpr (kMass)
          value -= kept_of(reached[lane], kept_here, unit_here, broadcast<Real>(alpha[lane]));
        value *= factor[lane];
        if (past_caches && columns == kRows)
          store_past_caches(grad[lane] + column, value);
        else
          store_first(grad[lane] + column, value, columns);
      }
    });
    if (past_caches) fence_stores();

    for (int64_t i = 0; i < rows.num_own; ++i) {
      const auto& [lane, place, q] = rows.own[i];
      if (place >= tree.num_classes) continue;
      const Real e = tiles[place / kRows * kRows + lane][place % kRows];
      const Real value =
          (e * line[plan.slot[place]][lane] - static_cast<Real>(q)) * factor[lane][0];
      store_first(grad[lane] + place, broadcast(value), 1);
    }
  }

  // Replaces what pulls at every place by the factor of the exponentials below it.
  void pull_down_lines(Line of_total) {
    for (int64_t x = 0; x < spanning.num_mixed; ++x) {
      const Line pull = mixed[x];
      if (!any(pull != 0)) continue;
      for (int32_t i = spanning.part_ptr[x]; i < spanning.part_ptr[x + 1]; ++i)
        line[plan.part_line[i]] += pull;
    }
    const int32_t* const slot = plan.slot + tree.num_classes;
    for (int64_t v = tree.num_inner - 1; v >= 0; --v) {
      line[v] = v == tree.num_inner - 1 ? of_total : line[slot[v]] - line[v];
      for (int32_t i = plan.slot_ptr[v]; i < plan.slot_ptr[v + 1]; ++i) {
        Line& of_slot = line[plan.num_lines + i];
        of_slot = line[v] - of_slot;
      }
    }
  }
};

}  // namespace
