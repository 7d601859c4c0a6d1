// A DAG as the kernels see it: a ClosureTable of hace_kernels/closure_table.py and its SpanningTree
// (spanning_tree.py), which say what the arrays mean. Without torch.
#pragma once

#include <cstdint>

#include "tree.h"

namespace hace {

struct SpanningTree {
  Tree tree;
  int64_t num_mixed;  // X
  const int32_t* place;
  const int32_t* part_ptr;
  const int32_t* part;
  const int32_t* holder_ptr;
  const int32_t* holder;
  const int32_t* by_height;
  const int32_t* child_ptr;
  const int32_t* child;

  MixedNodes mixed() const { return {num_mixed, part_ptr, part, holder_ptr, holder}; }

  int64_t num_nodes() const { return tree.num_nodes; }
  // Of the tree, and of mixed nodes after them.
  int64_t num_places() const { return tree.num_places() + num_mixed; }
};

struct Dag {
  int64_t num_columns;
  int64_t num_nodes;
  const int32_t* order;
  const int32_t* interval_ptr;
  const int32_t* start;
  const int32_t* stop;
  const int32_t* parent_ptr;
  const int32_t* parent;
  const int32_t* height;
  SpanningTree spanning;
};

}  // namespace hace
