// Checks the values of a ClosureTable that the CPU's kernels rely on.
#pragma once

#include <vector>

#include "dag_plan.h"
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

// The plan, checked.
inline DagPlan plan_of(const Dag& dag, const std::vector<Tensor>& table) {
  const SpanningTree& spanning = dag.spanning;
  const Tree& tree = spanning.tree;
  const int64_t size = table[kDagPlan].numel(), num_parts = spanning.part_ptr[spanning.num_mixed];
  const int32_t* at = int32_vector("table.plan", table[kDagPlan]);
  STD_TORCH_CHECK(size >= 4 && all_within(at, 4, 0, size), kNoDag);
  DagPlan plan;
  plan.num_lines = tree.num_inner + spanning.num_mixed;
  plan.num_slots = at[0];
  plan.num_rising = at[1];
  plan.num_mass_slots = at[3];
  const int64_t num_links = at[2], num_sources = dag.num_columns + plan.num_rising;
  const int32_t* const begin = at;
  const auto take = [&](int64_t count) {
    const int32_t* const array = at;
    at += count;
    return array;
  };
  take(4);
  plan.slot = take(tree.root());
  plan.slot_ptr = take(tree.num_inner + 1);
  plan.part_line = take(num_parts);
  plan.source = take(num_sources);
  plan.line = take(plan.num_rising);
  plan.link_ptr = take(num_sources + 1);
  plan.link = take(num_links);
  plan.risen_ptr = take(plan.num_rising + 1);
  STD_TORCH_CHECK(at == begin + size, kNoDag);
  const int64_t end = plan.num_lines + plan.num_slots;
  STD_TORCH_CHECK(
      all_within_or_none(plan.slot, tree.root(), 0, end) &&
          is_ptr(plan.slot_ptr, tree.num_inner, plan.num_slots) &&
          all_within_or_none(plan.part_line, num_parts, 0, end) &&
          all_within_or_none(plan.source, num_sources, -1, dag.num_nodes) &&
          all_within_or_none(plan.line, plan.num_rising, 0, plan.num_lines) &&
          is_ptr(plan.link_ptr, num_sources, num_links) &&
          all_within_or_none(plan.link, num_links, 0, plan.num_lines + plan.num_mass_slots) &&
          is_ptr(plan.risen_ptr, plan.num_rising, plan.num_mass_slots),
      kNoDag);
  return plan;
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
