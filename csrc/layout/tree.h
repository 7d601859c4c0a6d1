// Levels and depth-first layout of a forest given as a parent array (-1 at a root).
//
// The time of every function is linear in its input and output, and none is recursive: trees of
// millions of nodes and chains of any depth are fine. Parents must be in -1 .. num_nodes - 1.
#pragma once

#include <cstdint>
#include <vector>

namespace hace {

struct Levels {
  std::vector<int64_t> order;      // nodes by level, roots first, ascending id in a level;
                                   // without the nodes on or below a cycle
  std::vector<int64_t> level_ptr;  // (levels + 1), bounds of the levels in `order`
  std::vector<int32_t> depth;      // (num_nodes), edges to the root; negative on or below a cycle
};

Levels find_levels(const int64_t* parents, int64_t num_nodes);

// The arrays of hace_kernels.layout.Layout, which documents them.
struct Layout {
  Levels levels;
  std::vector<int32_t> height;
  std::vector<int64_t> child_ptr;
  std::vector<int64_t> child;
  std::vector<int32_t> start;
  std::vector<int32_t> stop;
  std::vector<int32_t> column;
  bool column_is_identity = true;
};

// `classes` holds distinct node ids, in label order. Throws std::invalid_argument on a cycle.
Layout lay_out(const int64_t* parents, int64_t num_nodes, const int64_t* classes,
               int64_t num_classes);

}  // namespace hace
