// The interface between the driver of `dag_log_loss` (dag_log_loss.cpp) and its kernels for blocks
// of rows, which are compiled once per instruction set (dag_block_kernel.cpp). Without torch.
#pragma once

#include <cstdint>

#include "dag.h"
#include "dag_plan.h"
#include "element.h"
#include "targets.h"
#include "tree_log_loss_kernel.h"

namespace hace {

// Arrays of numbers in the working type are `const void*` here. Places are those of a SpanningTree,
// including those of mixed nodes.
struct DagBlockProblem : Targets {
  SpanningTree spanning;
  DagPlan plan;
  const void* logits;  // (rows, C), unit stride along a row
  int64_t row_stride;
  void* grad;  // (rows, C) contiguous, of the logits' type; null: the loss alone

  const int32_t* part_index;  // by place of the tree: its number among those that are parts, or -1
  int64_t num_part_places;
  const double*
      kept_unit;  // by place: what it keeps of 1 on every class; null: nothing is put there
  const void* kept_unit_of_line;   // the same in the working type
  double total_unit, column_unit;  // all of it together, and that of columns

  // For targets as mass: what a node keeps of the mass that reaches it, by place, and what it hands
  // to each of its parents, by node. The lanes take the latter by source of the plan, and the share
  // that a target has into account where targets are the columns in their order.
  const void* kept;
  const void* handed;
  const int32_t* with_children;  // nodes, children before their parents
  int64_t num_with_children;
  bool mass_is_by_column;
  const void* kept_with_share;
  const void* handed_with_share;

  double eps;
  const double* factor;  // by row: multiplies the gradient
  double* loss;          // by row
  bool past_caches;
};

// The mass that one row's targets (indices), and its mass on every class, put on one place once it
// has risen.
struct DagOwn {
  int32_t lane;
  int32_t place;
  double q;
};

// The rows of a block and, for targets that are indices, the mass that they put on places.
struct DagBlockRows {
  const int64_t* row;
  int64_t count;
  const double* on_every_class;  // by lane
  const DagOwn* own;
  int64_t num_own;
};

constexpr int64_t kMaxLanes = 16;

struct DagBlockKernel {
  int64_t block_rows;  // at most kMaxLanes
  int64_t line_bytes;
  int64_t (*num_lines)(const DagBlockProblem&);
  // `lines` is 64-byte aligned memory of num_lines.
  void (*run)(const DagBlockProblem&, const DagBlockRows&, void* lines, TreeLogLossFault* fault);
  // The same without eps, and faster. Rows whose masses are too far apart for it are
  // `left_out`, by lane. It needs neither part_index nor what lists children.
  int64_t (*num_lanes_lines)(const DagBlockProblem&);
  void (*run_lanes)(const DagBlockProblem&, const DagBlockRows&, void* lines, bool* left_out,
                    TreeLogLossFault* fault);
};

DagBlockKernel dag_block_kernel_generic(Element);
DagBlockKernel dag_block_kernel_avx2(Element);
DagBlockKernel dag_block_kernel_avx512(Element);

}  // namespace hace
