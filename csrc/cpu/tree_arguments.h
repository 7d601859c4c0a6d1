// How the tree ops take a TreeTable, and share out blocks of rows.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "rows.h"
#include "tree.h"

namespace hace {

// Whether every entry is in [low, high), both small against 2^31: x - low may have no sign bit, and
// x - high must have it. (Signs vectorise on every x86, comparisons do not.)
inline bool all_within(const int32_t* x, int64_t size, int64_t low, int64_t high) {
  const uint32_t low_bits = static_cast<uint32_t>(low), high_bits = static_cast<uint32_t>(high);
  uint32_t below = 0, not_above = ~uint32_t{0};
  for (int64_t i = 0; i < size; ++i) {
    below |= static_cast<uint32_t>(x[i]) - low_bits;
    not_above &= static_cast<uint32_t>(x[i]) - high_bits;
  }
  return !(below >> 31) && not_above >> 31;
}

// `tensors` are place, parent, child_ptr, child and num_columns of a TreeTable. The kernels follow
// its links, so none may lead out of it, and none from a place to itself or one below.
inline Tree tree_of(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(tensors.size() == 5,
                  "a tree is the tensors place, parent, child_ptr, child and num_columns; got ",
                  tensors.size());
  Tree tree;
  tree.place = int32_vector("tree.place", tensors[0]);
  tree.parent = int32_vector("tree.parent", tensors[1]);
  tree.child_ptr = int32_vector("tree.child_ptr", tensors[2]);
  tree.child = int32_vector("tree.child", tensors[3]);
  tree.num_columns = int32_vector("tree.num_columns", tensors[4]);
  tree.num_nodes = tensors[0].numel();
  tree.num_inner = tensors[2].numel() - 1;
  tree.num_classes = tensors[1].numel() - tree.num_inner;
  const int64_t num_places = tree.num_places(), num_children = tensors[3].numel();
  bool sound = tree.num_inner > 0 && tree.num_classes >= 0 && num_children == num_places - 1 &&
               tensors[4].numel() == num_places;
  sound = sound && tree.child_ptr[0] == 0 && tree.child_ptr[tree.num_inner] == num_children &&
          all_within(tree.child, num_children, 0, tree.root()) &&
          all_within(tree.parent, num_children, tree.num_classes, num_places) &&
          all_within(tree.place, tree.num_nodes, -1, tree.root());
  int32_t falling = 0, upwards = -1;  // by their sign bits
  if (sound) {
    for (int64_t v = 0; v < tree.num_inner; ++v)
      falling |= tree.child_ptr[v + 1] - tree.child_ptr[v];
    for (int32_t p = 0; p < num_children; ++p) upwards &= p - tree.parent[p];
  }
  STD_TORCH_CHECK(sound && falling >= 0 && upwards < 0,
                  "the tree's arrays are no TreeTable: children before their parents, every place "
                  "but the last the child of one");
  return tree;
}

// Runs block(first, count) over all rows, `block_rows` at a time, on all threads.
template <typename RunBlock>
inline void for_blocks(int64_t num_rows, int64_t block_rows, RunBlock run_block) {
  const int64_t num_blocks = (num_rows + block_rows - 1) / block_rows;
  torch::stable::parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block)
      run_block(block * block_rows, std::min(block_rows, num_rows - block * block_rows));
  });
}

}  // namespace hace
