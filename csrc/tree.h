// A tree as the kernels see it: a TreeTable (hace_kernels/tree_table.py says what the arrays mean).
// Without torch.
#pragma once

#include <cstdint>

namespace hace {

struct Tree {
  int64_t num_nodes;    // N
  int64_t num_classes;  // C, the columns
  int64_t num_inner;    // I, the virtual root the last
  const int32_t* place;
  const int32_t* parent;
  const int32_t* child_ptr;
  const int32_t* child;
  const int32_t* num_columns;

  int64_t num_places() const { return num_classes + num_inner; }
  int64_t root() const { return num_places() - 1; }
};

// The nodes of a DAG that have the columns of several places of a tree, which are apart: their
// parts. They follow the tree's places. (hace_kernels/spanning_tree.py; a tree has none.)
struct MixedNodes {
  int64_t count;
  const int32_t* part_ptr;
  const int32_t* part;
  const int32_t* holder_ptr;
  const int32_t* holder;
};

}  // namespace hace
