// What the bindings of the ops over DAGs have in common, and those of the ops over the nodes of
// trees and DAGs.
#pragma once

#include <vector>

#include "../dag_tensors.h"
#include "tree_bindings.h"

namespace hace {

// The levels of the tree, and those of the nodes by height, from a ClosureTable's sizes.
struct DagLevels {
  std::vector<int64_t> tree, heights;

  explicit DagLevels(const std::vector<int64_t>& sizes) {
    constexpr int64_t kLists = 5;  // their lengths come first
    STD_TORCH_CHECK(sizes.size() >= kLists, kNoDag);
    const int64_t left = static_cast<int64_t>(sizes.size()) - kLists;
    STD_TORCH_CHECK(sizes[0] > 0 && sizes[1] > 0 && sizes[0] <= left && sizes[1] <= left - sizes[0],
                    kNoDag);
    const auto first = sizes.begin() + kLists;
    tree.assign(first, first + sizes[0]);
    heights.assign(first + sizes[0], first + sizes[0] + sizes[1]);
  }
};

// The tensors of the spanning tree, among those of a ClosureTable.
inline std::vector<Tensor> tensors_of_tree(const std::vector<Tensor>& table) {
  STD_TORCH_CHECK(table.size() >= kDagTensors, kNoDag);
  return {table.begin() + 7, table.begin() + 12};
}

inline void check_dag(const char* op, const std::vector<Tensor>& table, const DagLevels& levels,
                      const Tensor& rows) {
  const Dag dag = bind_dag(table);
  check_tree(op, tensors_of_tree(table), levels.tree, rows);
  for (size_t i = 0; i < kDagTensors; ++i) check_device(op, "the DAG", table[i], rows);
  bool rising = levels.heights.front() == 0 && levels.heights.back() == dag.num_nodes;
  for (size_t i = 1; rising && i < levels.heights.size(); ++i)
    rising = levels.heights[i - 1] <= levels.heights[i];
  STD_TORCH_CHECK(rising && dag.spanning.num_places() < int64_t{1} << 30, kNoDag);
}

// What the ops over nodes take: a tree, and what a DAG has beyond its spanning tree.
struct NodeTable {
  std::vector<Tensor> tree_tensors;
  std::vector<int64_t> level_ptr;
  Tree tree;  // for a DAG: its spanning tree, with the DAG's places by node
  MixedNodes mixed;

  int64_t num_places() const { return tree.num_places() + mixed.count; }

  static NodeTable of_tree(const char* op, const std::vector<Tensor>& tensors,
                           const std::vector<int64_t>& level_ptr, const Tensor& rows) {
    check_tree(op, tensors, level_ptr, rows);
    return {tensors, level_ptr, bind_tree(tensors), {}};
  }

  static NodeTable of_dag(const char* op, const std::vector<Tensor>& table,
                          const std::vector<int64_t>& sizes, const Tensor& rows) {
    const DagLevels levels(sizes);
    check_dag(op, table, levels, rows);
    const SpanningTree spanning = bind_dag(table).spanning;
    Tree tree = spanning.tree;
    tree.place = spanning.place;
    return {tensors_of_tree(table), levels.tree, tree, spanning.mixed()};
  }
};

}  // namespace hace
