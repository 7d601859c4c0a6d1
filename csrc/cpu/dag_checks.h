// Whether a ClosureTable's arrays hold what the CPU's kernels follow without looking.
#pragma once

#include <vector>

#include "dag_tensors.h"
#include "ranges.h"
#include "tree_arguments.h"

namespace hace {

inline bool is_ptr(const int32_t* ptr, int64_t size, int64_t total) {
  if (ptr[0] != 0 || ptr[size] != total) return false;
  for (int64_t i = 0; i < size; ++i)
    if (ptr[i] > ptr[i + 1]) return false;
  return true;
}

inline bool all_within_or_none(const int32_t* x, int64_t size, int64_t low, int64_t high) {
  return size == 0 || all_within(x, size, low, high);
}

// The intervals of a node are ascending and apart, and parents are higher than children.
inline bool has_sound_intervals(const Dag& dag, int64_t num_intervals, int64_t num_edges) {
  bool sound = is_ptr(dag.interval_ptr, dag.num_nodes, num_intervals) &&
               is_ptr(dag.parent_ptr, dag.num_nodes, num_edges) &&
               all_within_or_none(dag.order, dag.num_columns, 0, dag.num_columns) &&
               all_within_or_none(dag.parent, num_edges, 0, dag.num_nodes);
  for (int64_t v = 0; sound && v < dag.num_nodes; ++v) {
    int32_t end = 0;
    for (int64_t i = dag.interval_ptr[v]; i < dag.interval_ptr[v + 1]; ++i) {
      sound = sound && dag.start[i] >= end && dag.stop[i] > dag.start[i];
      end = dag.stop[i];
    }
    sound = sound && end <= dag.num_columns;
    for (int64_t e = dag.parent_ptr[v]; e < dag.parent_ptr[v + 1]; ++e)
      sound = sound && dag.height[dag.parent[e]] > dag.height[v];
  }
  return sound;
}

inline void check_spanning_tree(const SpanningTree& spanning, int64_t num_parts,
                                int64_t num_edges) {
  const Tree& tree = spanning.tree;
  const int64_t num_nodes = spanning.num_nodes();
  check_parents(tree);
  check_children(tree);
  STD_TORCH_CHECK(is_ptr(spanning.part_ptr, spanning.num_mixed, num_parts) &&
                      is_ptr(spanning.child_ptr, num_nodes, num_edges) &&
                      all_within_or_none(spanning.place, num_nodes, -1, spanning.num_places()) &&
                      all_within_or_none(spanning.part, num_parts, 0, tree.root()) &&
                      all_within_or_none(spanning.by_height, num_nodes, 0, num_nodes) &&
                      all_within_or_none(spanning.child, num_edges, 0, num_nodes),
                  kNoDag);
}

// The DAG, fit to be followed.
inline Dag dag_of(const std::vector<Tensor>& table) {
  Dag dag = bind_dag(table);
  const int64_t num_edges = table[5].numel();
  STD_TORCH_CHECK(has_sound_intervals(dag, table[2].numel(), num_edges), kNoDag);
  check_spanning_tree(dag.spanning, table[14].numel(), num_edges);
  bool ordered = true;
  for (int64_t c = 0; c < dag.num_columns; ++c) ordered = ordered && dag.order[c] == c;
  if (ordered) dag.order = nullptr;
  return dag;
}

}  // namespace hace
