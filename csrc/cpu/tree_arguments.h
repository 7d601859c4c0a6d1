// How the tree ops take a TreeTable, and share out blocks of rows.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ranges.h"
#include "rows.h"
#include "scratch.h"
#include "tree_tensors.h"

namespace hace {

// The kernels follow the tree's links, so none may lead out of it, and none from a place to itself
// or one below.
inline Tree tree_of(const std::vector<Tensor>& tensors) {
  const Tree tree = bind_tree(tensors);
  const int64_t num_places = tree.num_places(), num_children = num_places - 1;
  const bool sound = tree.child_ptr[0] == 0 && tree.child_ptr[tree.num_inner] == num_children &&
                     all_within(tree.child, num_children, 0, tree.root()) &&
                     all_within(tree.parent, num_children, tree.num_classes, num_places) &&
                     tree.parent[tree.root()] == -1 &&
                     all_within(tree.place, tree.num_nodes, -1, tree.root());
  int32_t falling = 0, upwards = -1;  // by their sign bits
  if (sound) {
    for (int64_t v = 0; v < tree.num_inner; ++v)
      falling |= tree.child_ptr[v + 1] - tree.child_ptr[v];
    for (int32_t p = 0; p < num_children; ++p) upwards &= p - tree.parent[p];
  }
  STD_TORCH_CHECK(sound && falling >= 0 && upwards < 0, kNoTree);
  return tree;
}

// The lines of the block that a thread is at, whichever op's. (Inside the template below they would
// be one set an op.)
inline thread_local Scratch thread_lines;

// Runs block(first, count, lines) over all rows, `block_rows` at a time, on all threads; `lines` is
// that many bytes of 64-byte aligned memory.
template <typename RunBlock>
inline void for_blocks(int64_t num_rows, int64_t block_rows, int64_t bytes, RunBlock run_block) {
  const int64_t num_blocks = (num_rows + block_rows - 1) / block_rows;
  torch::stable::parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
    void* const lines = thread_lines.get(bytes);
    for (int64_t block = first; block < last; ++block)
      run_block(block * block_rows, std::min(block_rows, num_rows - block * block_rows), lines);
  });
}

}  // namespace hace
