// How a row is worked on: its target's path, its rings, and the pieces that they are measured in.
//
// Where columns are in depth-first order, a ring is two runs of columns, and a piece one run of
// them. Where they are not, a large ring is found *by position*: a column is in interval i exactly
// if its position is, so that one pass over the columns, in whatever order, sums up all large
// rings, and one writes their gradients. Small rings, and there may be many, are gathered: their
// logits are copied to one place, ring after ring, and their gradients scattered from there. What
// is gathered leaves an exponential of 0 in the row.
#pragma once

#include <cstdint>

#include "log_sum.h"
#include "path_log_loss_kernel.h"

namespace hace {

// Columns that are measured against one maximum. Twice this in float32 stays in a 256 KiB cache.
constexpr int64_t kGroupColumns = 16384;

constexpr int64_t kMostLarge = 17;  // rings found by position

struct Interval {
  int64_t start;
  int64_t size;
};

// A part of one ring within one group.
struct Piece {
  int64_t begin;  // its first value in the workspace
  int64_t size;   // by position: of the whole group
  int64_t ring;
  // The first `left_size` are at the positions from `left` on, those of the
  // ring's left side, and the others from `right` on.
  int64_t left_size;
  int64_t left;
  int64_t right;
  double max;     // exponentials are relative to this
  double sum;     // of the exponentials
  double moment;  // of exponential times (logit - max), with entropy
  // The gradient is (factor + slope * (logit - max - middle)) * exponential + offset; slope is 0
  // without entropy.
  double factor;
  double slope;
  double middle;
  double offset;
};

struct Ring {
  LogSum mass;    // the ring's own
  LogSum inside;  // with every ring inside it: the interval's
  double weight;  // w_r
  double a, b;    // A_r, B_r of path_log_loss_kernel.cpp
  double added;   // the mass of the ring around it over `inside`
  double offset;
};

// Everything about the row at hand; what it points to follows it in the workspace.
struct Plan {
  int64_t row;
  int64_t num_rings;
  Ring* rings;
  bool by_position;

  // Those by position first, num_large for each group of columns, then the runs or the gathered.
  Piece* pieces;
  int64_t num_pieces;
  // Runs or gathered pieces: group g holds pieces group_ptr[g] .. group_ptr[g + 1].
  int64_t* group_ptr;
  int64_t num_groups;

  // By position: the large rings from the outermost in, and for each of them but the first an
  // interval that holds it and those after it, and none before it.
  int64_t num_column_groups;
  double only_max;  // of a single group of columns
  int64_t num_large;
  Interval* cuts;

  int64_t num_gathered() const { return num_pieces - num_column_groups * num_large; }
  const Piece& gathered(int64_t i) const { return pieces[num_column_groups * num_large + i]; }

  // Interval r of the path; the whole row for the last ring, nothing for -1.
  Interval interval(const PathLogLossProblem& problem, int64_t r) const {
    if (r < 0) return {0, 0};
    if (r + 1 == num_rings) return {0, problem.columns};
    const int64_t entry = problem.ptr[problem.target[row]] + r;
    return {problem.start[entry], problem.stop[entry] - problem.start[entry]};
  }
};

// How many intervals a path may have for the rows to go by lanes, if they are short enough; else 0.
int64_t most_intervals_in_lanes(const PathLogLossProblem&, int64_t max_entries);

// Rows that go by lanes do so in blocks that are the same for any number of threads.
inline int64_t rows_at_a_time(const PathLogLossProblem& problem) {
  return problem.most_intervals_in_lanes > 0 ? 16 : 1;
}

inline bool is_plain(const PathLogLossProblem& problem) {
  return problem.entropy == 0 && problem.eps == 0;
}

inline bool goes_by_words(const PathLogLossProblem& problem) {
  return problem.rings.ring && is_plain(problem);
}

// How far apart arrays with a number for each ring lie, which are read by vectors.
inline int64_t ring_stride(int64_t num_intervals) { return num_intervals + 1 + 8; }

// The workspace that a plan and its values need.
int64_t plan_bytes(const PathLogLossProblem&, int64_t max_entries);
int64_t plan_values(const PathLogLossProblem&);

// Where gathered values begin, and the exponentials of the row's columns end.
inline int64_t gathered_begin(const PathLogLossProblem& problem) { return problem.columns + 64; }

// The plan of a row, in the workspace.
Plan& make_plan(const PathLogLossProblem&, int64_t row, PathLogLossWorkspace&);

// Whose units are, for runs: groups, 1, pieces; by position: groups of columns, gathered pieces,
// groups of both, 1, groups of columns, gathered pieces.
int num_stages(const PathLogLossProblem&, const Plan&);
int64_t stage_units(const Plan&, int stage);

inline Plan& plan_of(const PathLogLossWorkspace& workspace) {
  return *static_cast<Plan*>(workspace.plan);
}

}  // namespace hace
