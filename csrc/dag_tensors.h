// How the ops over DAGs take a ClosureTable, with the checks that do not read its values.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "dag.h"
#include "tensors.h"
#include "tree_tensors.h"

namespace hace {

constexpr const char* kNoDag = "the arrays are not those of a ClosureTable";

// The tensors of a ClosureTable that the kernels read: its intervals, its spanning tree and its
// plan.
constexpr size_t kDagTensors = 21, kDagPlan = 20;

inline Dag bind_dag(const std::vector<Tensor>& table) {
  STD_TORCH_CHECK(table.size() >= kDagTensors, kNoDag);
  Dag dag;
  dag.num_columns = table[0].numel();
  dag.num_nodes = table[6].numel();
  const int64_t num_edges = table[5].numel();
  dag.order = int32_vector("table.order", table[0]);
  dag.interval_ptr = int32_vector("table.interval_ptr", table[1], dag.num_nodes + 1);
  dag.start = int32_vector("table.start", table[2]);
  dag.stop = int32_vector("table.stop", table[3], table[2].numel());
  dag.parent_ptr = int32_vector("table.parent_ptr", table[4], dag.num_nodes + 1);
  dag.parent = int32_vector("table.parent", table[5]);
  dag.height = int32_vector("table.height", table[6]);

  SpanningTree& spanning = dag.spanning;
  spanning.tree = bind_tree({table[7], table[8], table[9], table[10], table[11]});
  const Tree& tree = spanning.tree;
  STD_TORCH_CHECK(tree.num_nodes == dag.num_nodes && tree.num_classes == dag.num_columns, kNoDag);
  spanning.num_mixed = table[13].numel() - 1;
  const int64_t num_parts = table[14].numel();
  spanning.place = int32_vector("table.place", table[12], dag.num_nodes);
  spanning.part_ptr = int32_vector("table.part_ptr", table[13]);
  spanning.part = int32_vector("table.part", table[14]);
  spanning.holder_ptr = int32_vector("table.holder_ptr", table[15], tree.num_places() + 1);
  spanning.holder = int32_vector("table.holder", table[16], num_parts);
  spanning.by_height = int32_vector("table.by_height", table[17], dag.num_nodes);
  spanning.child_ptr = int32_vector("table.child_ptr", table[18], dag.num_nodes + 1);
  spanning.child = int32_vector("table.child", table[19], num_edges);
  STD_TORCH_CHECK(spanning.num_mixed >= 0, kNoDag);
  return dag;
}

}  // namespace hace
