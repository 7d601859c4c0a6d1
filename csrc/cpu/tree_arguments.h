// How the tree ops take a TreeTable, and share out blocks of rows.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "ranges.h"
#include "rows.h"
#include "scratch.h"
#include "tree_tensors.h"

namespace hace {

// The kernels follow the tree's links, so none may lead out of it, and none from a place to itself
// or one below. In two parts, for some kernels look at the children's anyway.
inline void check_parents(const Tree& tree) {
  const int64_t num_places = tree.num_places();
  const uint32_t low = static_cast<uint32_t>(tree.num_classes);
  const uint32_t high = static_cast<uint32_t>(num_places);
  // By their signs, as in ranges.h.
  uint32_t below = 0, not_above = ~uint32_t{0}, upwards = ~uint32_t{0}, falling = 0;
  for (int64_t p = 0; p + 1 < num_places; ++p) {
    const uint32_t parent = static_cast<uint32_t>(tree.parent[p]);
    below |= parent - low;
    not_above &= parent - high;
    upwards &= static_cast<uint32_t>(p) - parent;
  }
  for (int64_t v = 0; v < tree.num_inner; ++v)
    falling |=
        static_cast<uint32_t>(tree.child_ptr[v + 1]) - static_cast<uint32_t>(tree.child_ptr[v]);
  const bool has_links = num_places > 1;
  STD_TORCH_CHECK(!has_links || (!(below >> 31) && not_above >> 31 && upwards >> 31), kNoTree);
  STD_TORCH_CHECK(tree.parent[tree.root()] == -1 && tree.child_ptr[0] == 0 &&
                      tree.child_ptr[tree.num_inner] == num_places - 1 && !(falling >> 31),
                  kNoTree);
}

inline void check_children(const Tree& tree) {
  STD_TORCH_CHECK(all_within(tree.child, tree.num_places() - 1, 0, tree.root()), kNoTree);
}

inline Tree tree_of(const std::vector<Tensor>& tensors) {
  const Tree tree = bind_tree(tensors);
  check_parents(tree);
  check_children(tree);
  STD_TORCH_CHECK(all_within(tree.place, tree.num_nodes, -1, tree.root()), kNoTree);
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
  parallel_for(0, num_blocks, 1, [&](int64_t first, int64_t last) {
    void* const lines = thread_lines.get(bytes);
    for (int64_t block = first; block < last; ++block)
      run_block(block * block_rows, std::min(block_rows, num_rows - block * block_rows), lines);
  });
}

}  // namespace hace
