// Checks the values of a ClosureTable that the CPU's kernels rely on.
#pragma once

#include <vector>

#include "dag_tensors.h"
#include "ranges.h"
#include "tree_arguments.h"

namespace hace {

// Whether ptr rises from 0 to `total`.
inline bool is_ptr(const int32_t* ptr, int64_t size, int64_t total) {
  uint32_t falling = 0;  // by their signs, as in ranges.h
  for (int64_t i = 0; i < size; ++i)
    falling |= static_cast<uint32_t>(ptr[i + 1]) - static_cast<uint32_t>(ptr[i]);
  return ptr[0] == 0 && ptr[size] == total && !(falling >> 31) &&
         all_within(ptr, size + 1, 0, total + 1);
}

inline bool all_within_or_none(const int32_t* x, int64_t size, int64_t low, int64_t high) {
  return size == 0 || all_within(x, size, low, high);
}

// The DAG, checked for sums over its nodes; its intervals and its children are not checked.
inline Dag dag_of(const std::vector<Tensor>& table) {
  const Dag dag = bind_dag(table);
  const SpanningTree& spanning = dag.spanning;
  const Tree& tree = spanning.tree;
  const int64_t num_edges = table[5].numel(), num_parts = table[14].numel();
  check_tree(tree);
  STD_TORCH_CHECK(
      is_ptr(dag.parent_ptr, dag.num_nodes, num_edges) &&
          all_within_or_none(dag.parent, num_edges, 0, dag.num_nodes) &&
          is_ptr(spanning.part_ptr, spanning.num_mixed, num_parts) &&
          is_ptr(spanning.holder_ptr, tree.num_places(), num_parts) &&
          all_within_or_none(spanning.place, dag.num_nodes, -1, spanning.num_places()) &&
          all_within_or_none(spanning.part, num_parts, 0, tree.root()) &&
          all_within_or_none(spanning.holder, num_parts, 0, spanning.num_mixed),
      kNoDag);
  return dag;
}

// Checks the nodes by height, and their children.
inline void check_children(const Dag& dag, int64_t num_edges) {
  const SpanningTree& spanning = dag.spanning;
  STD_TORCH_CHECK(is_ptr(spanning.child_ptr, dag.num_nodes, num_edges) &&
                      all_within_or_none(spanning.by_height, dag.num_nodes, 0, dag.num_nodes) &&
                      all_within_or_none(spanning.child, num_edges, 0, dag.num_nodes),
                  kNoDag);
}

// What the ops over nodes take: a tree, and what a DAG has beyond its spanning tree.
struct PlacedNodes {
  Tree tree;  // for a DAG: its spanning tree, with the DAG's places by node
  MixedNodes mixed;
};

inline PlacedNodes nodes_of_tree(const std::vector<Tensor>& table) { return {tree_of(table), {}}; }

inline PlacedNodes nodes_of_dag(const std::vector<Tensor>& table) {
  const SpanningTree spanning = dag_of(table).spanning;
  PlacedNodes nodes = {spanning.tree, spanning.mixed()};
  nodes.tree.place = spanning.place;
  return nodes;
}

}  // namespace hace
