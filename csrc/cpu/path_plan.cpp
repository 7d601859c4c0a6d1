#include "path_plan.h"

#include <algorithm>

namespace hace {
namespace {

// ---- the rules, in one place ----

// Columns in depth-first order do not need positions. But a piece costs as much as a few vectors of
// columns, so in short rows all columns go by position.
constexpr int64_t kShortColumns = 512;

bool goes_by_position(const PathLogLossProblem& problem, int64_t num_intervals) {
  return num_intervals > 0 && (problem.order || problem.columns <= kShortColumns);
}

// A large ring costs a comparison per column (about 0.2 cycles for both passes). A small one costs
// about four cycles per column of its own, and 60 besides.
int64_t large_size(const PathLogLossProblem& problem, int64_t num_intervals) {
  const int64_t free = num_intervals <= 8 ? 256 : 0;
  return std::max<int64_t>(1, (problem.columns - free + 15) / 16);
}

static_assert(kMostLarge >= 16 + 1, "rings of at least a sixteenth, and the largest");

// Rows in lanes (rows_in_lanes.h) take time for every interval of a path in every column.
constexpr int64_t kLaneColumns = 256, kLaneIntervals = 4;

// ---- layout ----

int64_t max_groups(const PathLogLossProblem& problem) {
  return 2 * (problem.columns / kGroupColumns + 1);
}

Piece& add_piece(Plan& plan, int64_t begin, int64_t size, int64_t ring) {
  Piece& piece = plan.pieces[plan.num_pieces++];
  piece.begin = begin;
  piece.size = size;
  piece.ring = ring;
  return piece;
}

// Puts pieces into groups as they are added.
struct Grouping {
  Plan& plan;
  int64_t in_group = 0;

  // How many of `left` columns still fit in the current group.
  int64_t room(int64_t left) const { return std::min(left, kGroupColumns - in_group); }

  void added(int64_t size) {
    in_group += size;
    if (in_group == kGroupColumns) close();
  }
  void close() {
    if (in_group) plan.group_ptr[++plan.num_groups] = plan.num_pieces;
    in_group = 0;
  }
};

// From left to right, the runs between boundaries belong to rings K, K-1, .., 0, .., K-1, K.
void lay_out_runs(const PathLogLossProblem& problem, Plan& plan) {
  const int64_t num_intervals = plan.num_rings - 1;
  const int64_t first = problem.ptr[problem.target[plan.row]];
  Grouping groups{plan};
  int64_t position = 0;
  for (int64_t s = 0; s <= 2 * num_intervals; ++s) {
    const int64_t ring = s < num_intervals ? num_intervals - s : s - num_intervals;
    const int64_t end = s < num_intervals      ? problem.start[first + ring - 1]
                        : ring < num_intervals ? problem.stop[first + ring]
                                               : problem.columns;
    while (position < end) {
      const int64_t size = groups.room(end - position);
      add_piece(plan, position, size, ring);
      position += size;
      groups.added(size);
    }
  }
  groups.close();
}

// Ring by ring, its left side before its right.
void lay_out_gathered(const PathLogLossProblem& problem, Plan& plan, const bool* is_large) {
  Grouping groups{plan};
  int64_t begin = gathered_begin(problem);
  Interval inner = {0, 0};
  for (int64_t ring = 0; ring < plan.num_rings; ++ring) {
    const Interval outer = plan.interval(problem, ring);
    if (ring == 0) inner = {outer.start, 0};
    const int64_t ring_size = outer.size - inner.size, ring_left = inner.start - outer.start;
    int64_t done = is_large[ring] ? ring_size : 0;
    while (done < ring_size) {
      const int64_t size = groups.room(ring_size - done);
      Piece& piece = add_piece(plan, begin, size, ring);
      piece.left_size = std::min(size, std::max<int64_t>(0, ring_left - done));
      piece.left = outer.start + done;
      piece.right = inner.start + inner.size + std::max<int64_t>(0, done - ring_left);
      done += size;
      begin += size;
      groups.added(size);
    }
    inner = outer;
  }
  groups.close();
}

void lay_out_by_position(const PathLogLossProblem& problem, Plan& plan, bool* is_large) {
  const int64_t num_intervals = plan.num_rings - 1, large = large_size(problem, num_intervals);
  int64_t largest = 0, largest_size = -1, inner = 0;
  for (int64_t ring = 0; ring < plan.num_rings; ++ring) {
    const int64_t outer = plan.interval(problem, ring).size, size = outer - inner;
    is_large[ring] = size >= large;
    if (size > largest_size) {
      largest_size = size;
      largest = ring;
    }
    inner = outer;
  }
  is_large[largest] = true;

  plan.num_column_groups = (problem.columns + kGroupColumns - 1) / kGroupColumns;
  int64_t rings[kMostCuts];
  for (int64_t ring = num_intervals; ring >= 0; --ring) {
    // One cut for all gathered rings between two large ones.
    const bool is_apart = plan.num_cuts > 0 && !plan.is_large[plan.num_cuts - 1];
    if (!is_large[ring] && (is_apart || !plan.sets_gathered_apart())) continue;
    rings[plan.num_cuts] = ring;
    plan.is_large[plan.num_cuts] = is_large[ring];
    plan.cuts[plan.num_cuts++] = plan.interval(problem, ring);
  }
  for (int64_t begin = 0; begin < problem.columns; begin += kGroupColumns)
    for (int64_t i = 0; i < plan.num_cuts; ++i)
      add_piece(plan, begin, std::min(kGroupColumns, problem.columns - begin), rings[i]);
  plan.group_ptr[0] = plan.num_pieces;
  lay_out_gathered(problem, plan, is_large);
}

}  // namespace

int64_t most_intervals_in_lanes(const PathLogLossProblem& problem, int64_t max_entries) {
  return is_plain(problem) && problem.columns <= kLaneColumns && max_entries <= kLaneIntervals
             ? max_entries
             : 0;
}

int64_t plan_values(const PathLogLossProblem& problem) {
  const int64_t lanes = problem.most_intervals_in_lanes > 0 ? 16 : 2;
  return lanes * problem.columns + 2 * 64;
}

int64_t plan_bytes(const PathLogLossProblem& problem, int64_t max_entries) {
  const int64_t pieces = 2 * max_entries + 1 + (1 + kMostCuts) * max_groups(problem);
  return sizeof(Plan) + pieces * sizeof(Piece) + (max_groups(problem) + 1) * sizeof(int64_t) +
         (max_entries + 1) * (sizeof(Ring) + sizeof(bool)) +
         kMostCuts * (sizeof(Interval) + sizeof(bool)) +
         7 * ring_stride(max_entries) * sizeof(double);
}

Plan& make_plan(const PathLogLossProblem& problem, int64_t row, PathLogLossWorkspace& workspace) {
  Plan& plan = plan_of(workspace);
  const int64_t first = problem.ptr[problem.target[row]];
  const int64_t num_intervals = problem.ptr[problem.target[row] + 1] - first;
  plan.row = row;
  plan.num_rings = num_intervals + 1;
  plan.rings = reinterpret_cast<Ring*>(&plan + 1);
  plan.cuts = reinterpret_cast<Interval*>(plan.rings + plan.num_rings);
  plan.group_ptr = reinterpret_cast<int64_t*>(plan.cuts + kMostCuts);
  plan.pieces = reinterpret_cast<Piece*>(plan.group_ptr + max_groups(problem) + 1);
  plan.num_pieces = plan.num_groups = plan.num_column_groups = plan.num_cuts = 0;
  plan.group_ptr[0] = 0;
  for (int64_t r = 0; r < num_intervals; ++r) plan.rings[r].weight = problem.weight[first + r];

  plan.by_position = goes_by_position(problem, num_intervals);
  if (plan.by_position) {
    const int64_t most_pieces = 2 * num_intervals + 1 + (1 + kMostCuts) * max_groups(problem);
    plan.is_large = reinterpret_cast<bool*>(plan.pieces + most_pieces);
    lay_out_by_position(problem, plan, plan.is_large + kMostCuts);
  } else {
    lay_out_runs(problem, plan);
  }
  return plan;
}

int num_stages(const PathLogLossProblem& problem, const Plan& plan) {
  if (!plan.by_position) return problem.grad ? 3 : 2;
  return (problem.grad ? 6 : 4) - plan.first_stage();
}

int64_t stage_units(const Plan& plan, int stage) {
  if (!plan.by_position) return stage == 0 ? plan.num_groups : stage == 1 ? 1 : plan.num_pieces;
  const int64_t columns = plan.num_column_groups, gathered = plan.num_gathered();
  const int64_t units[] = {columns, gathered, columns + plan.num_groups, 1, columns, gathered};
  return units[plan.first_stage() + stage];
}

}  // namespace hace
