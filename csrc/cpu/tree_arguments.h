// How the tree ops take a TreeTable, and divide blocks of rows among threads.
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

// The kernels follow the tree's links, so no link may lead out of it, or from a place to itself or
// to one below it. There are several checks because some kernels read only a part of the links.
inline void check_inner_parents(const Tree& tree) {
  const uint32_t end = static_cast<uint32_t>(tree.num_places());
  // By their signs, as in ranges.h.
  uint32_t not_above = ~uint32_t{0}, upwards = ~uint32_t{0};
  for (int64_t p = tree.num_classes; p < tree.root(); ++p) {
    const uint32_t parent = static_cast<uint32_t>(tree.parent[p]);
    not_above &= parent - end;
    upwards &= static_cast<uint32_t>(p) - parent;
  }
  const bool has_links = tree.num_inner > 1;
  STD_TORCH_CHECK(!has_links || (not_above >> 31 && upwards >> 31), kNoTree);
  STD_TORCH_CHECK(tree.parent[tree.root()] == -1, kNoTree);
}

inline void check_column_parents(const Tree& tree) {
  STD_TORCH_CHECK(tree.num_classes == 0 || all_within(tree.parent, tree.num_classes,
                                                      tree.num_classes, tree.num_places()),
                  kNoTree);
}

inline void check_children(const Tree& tree) {
  uint32_t falling = 0;
  for (int64_t v = 0; v < tree.num_inner; ++v)
    falling |=
        static_cast<uint32_t>(tree.child_ptr[v + 1]) - static_cast<uint32_t>(tree.child_ptr[v]);
  STD_TORCH_CHECK(tree.child_ptr[0] == 0 &&
                      tree.child_ptr[tree.num_inner] == tree.num_places() - 1 && !(falling >> 31) &&
                      all_within(tree.child, tree.num_places() - 1, 0, tree.root()),
                  kNoTree);
}

inline void check_tree(const Tree& tree) {
  check_inner_parents(tree);
  check_column_parents(tree);
  check_children(tree);
}

inline Tree tree_of(const std::vector<Tensor>& tensors) {
  const Tree tree = bind_tree(tensors);
  check_tree(tree);
  STD_TORCH_CHECK(all_within(tree.place, tree.num_nodes, -1, tree.root()), kNoTree);
  return tree;
}

// The lines of a thread's current block, for all ops. (Inside the template below there would be one
// set per op.)
inline thread_local Scratch thread_lines;

// Blocks with less memory than this together, which take some 10 us, do not go to several threads:
// to wake a thread takes as long, and longer by far if its processor is busy.
constexpr int64_t kLeastBytesPerThread = int64_t{128} << 10;

// Runs block(first, count, lines) over all rows, `block_rows` at a time, on all threads; `lines` is
// that many bytes of 64-byte aligned memory.
template <typename RunBlock>
inline void for_blocks(int64_t num_rows, int64_t block_rows, int64_t bytes, RunBlock run_block) {
  const int64_t num_blocks = (num_rows + block_rows - 1) / block_rows;
  const int64_t grain = std::max<int64_t>(1, kLeastBytesPerThread / std::max<int64_t>(1, bytes));
  parallel_for(0, num_blocks, grain, [&](int64_t first, int64_t last) {
    void* const lines = thread_lines.get(bytes);
    for (int64_t block = first; block < last; ++block)
      run_block(block * block_rows, std::min(block_rows, num_rows - block * block_rows), lines);
  });
}

}  // namespace hace
