// The plan of a row: its target's path, its rings, and the pieces in which they are measured.
//
// If columns are in depth-first order, a ring is two runs of columns, and a piece is one run of
// them. If they are not, large rings are found *by position*: a column is in interval i exactly if
// its position is, so that one pass over the columns, in any order, adds up all large rings, and
// another one writes their gradients. Small rings, of which there may be many, are *gathered*:
// their logits are copied to one place, ring after ring, and their gradients are scattered from
// there. In a row of one group of columns, gathered columns leave an exponential of 0. In a longer
// row they are set apart by position, too, so that each group of columns is read only once; writing
// to columns here and there would cost more than comparing them.
#pragma once

#include <cstdint>

#include "log_sum.h"
#include "path_log_loss_kernel.h"

namespace hace {

// How many columns are measured against one maximum. Twice as many in float32 fit in 256 KiB.
constexpr int64_t kGroupColumns = 16384;

constexpr int64_t kMostLarge = 17;             // rings found by position
constexpr int64_t kMostCuts = 2 * kMostLarge;  // with gathered rings between them

struct Interval {
  int64_t start;
  int64_t size;
};

// A part of one ring within one group.
struct Piece {
  int64_t begin;  // its first value in the workspace
  int64_t size;   // by position: that of the whole group
  int64_t ring;
  // The first `left_size` are at the positions from `left` on (the ring's left side), the others at
  // those from `right` on.
  int64_t left_size;
  int64_t left;
  int64_t right;
  double max;     // exponentials are relative to this
  double sum;     // the sum of the exponentials
  double moment;  // the sum of exponential times (logit - max), with entropy
  // The gradient is (factor + slope * (logit - max - middle)) * exponential + offset; slope is 0
  // without entropy.
  double factor;
  double slope;
  double middle;
  double offset;
  bool
      is_kept;  // by position, in the first piece of a group: its exponentials are in the workspace
};

struct Ring {
  LogSum mass;    // that of the ring
  LogSum inside;  // that of the interval: the ring and every ring inside it
  double weight;  // w_r
  double a, b;    // A_r, B_r of path_log_loss_kernel.cpp
  double added;   // the mass of the ring around it, divided by `inside`
  double offset;
};

// Everything about the current row; what it points to follows it in the workspace.
struct Plan {
  int64_t row;
  int64_t num_rings;
  Ring* rings;
  bool by_position;

  // First the pieces by position, num_cuts per group of columns; then runs or gathered pieces.
  Piece* pieces;
  int64_t num_pieces;
  // Runs or gathered pieces: group g holds pieces group_ptr[g] .. group_ptr[g + 1].
  int64_t* group_ptr;
  int64_t num_groups;

  // By position: intervals from the whole row inwards. What one of them adds to the next is a large
  // ring or, in rows of several groups of columns, gathered rings, whose pieces of columns stay
  // without mass. (In rows of one group, gathered columns are 0, and may be in any large ring.)
  int64_t num_column_groups;
  double only_max;  // the maximum, if there is a single group of columns
  int64_t num_cuts;
  Interval* cuts;
  bool* is_large;  // by cut

  bool sets_gathered_apart() const { return num_column_groups > 1; }
  // Of the stages by position.
  int first_stage() const { return sets_gathered_apart() ? 2 : 0; }
  int64_t num_gathered() const { return num_pieces - num_column_groups * num_cuts; }
  const Piece& gathered(int64_t i) const { return pieces[num_column_groups * num_cuts + i]; }

  // Interval r of the path; the whole row for the last ring, nothing for -1.
  Interval interval(const PathLogLossProblem& problem, int64_t r) const {
    if (r < 0) return {0, 0};
    if (r + 1 == num_rings) return {0, problem.columns};
    const int64_t entry = problem.ptr[problem.target[row]] + r;
    return {problem.start[entry], problem.stop[entry] - problem.start[entry]};
  }
};

// How many intervals a path may have so that rows go by lanes; 0 if they are too long for that.
int64_t most_intervals_in_lanes(const PathLogLossProblem&, int64_t max_entries);

// The rows per block if they go by lanes; blocks are the same for any number of threads.
inline int64_t rows_at_a_time(const PathLogLossProblem& problem) {
  return problem.most_intervals_in_lanes > 0 ? 16 : 1;
}

// Whether a row's logits and exponentials do not both fit in an L2 cache (of 1 MiB, in float32).
inline bool is_beyond_l2(const PathLogLossProblem& problem) {
  return problem.columns > (int64_t{1} << 17);
}

inline bool is_plain(const PathLogLossProblem& problem) {
  return problem.entropy == 0 && problem.eps == 0;
}

inline bool goes_by_words(const PathLogLossProblem& problem) {
  return problem.rings.ring && is_plain(problem);
}

// The distance between arrays that have a number per ring and are read in whole vectors.
inline int64_t ring_stride(int64_t num_intervals) { return num_intervals + 1 + 8; }

// The size of the workspace for a plan and its values.
int64_t plan_bytes(const PathLogLossProblem&, int64_t max_entries);
int64_t plan_values(const PathLogLossProblem&);

// Where gathered values begin, after the exponentials of the row's columns.
inline int64_t gathered_begin(const PathLogLossProblem& problem) { return problem.columns + 64; }

// Makes the plan of a row in the workspace.
Plan& make_plan(const PathLogLossProblem&, int64_t row, PathLogLossWorkspace&);

// How many stages there are. Their units are, for runs: groups, 1, pieces; by position: groups of
// columns, gathered pieces, groups of both, 1, groups of columns, gathered pieces, the first two
// only if there is one group of columns.
int num_stages(const PathLogLossProblem&, const Plan&);
int64_t stage_units(const Plan&, int stage);

inline Plan& plan_of(const PathLogLossWorkspace& workspace) {
  return *static_cast<Plan*>(workspace.plan);
}

}  // namespace hace
