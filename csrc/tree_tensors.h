// How the tree ops take a TreeTable, with the checks that do not read its values.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "tensors.h"
#include "tree.h"

namespace hace {

constexpr const char* kNoTree =
    "the tree's arrays are not those of a TreeTable: children come before their parents, and every "
    "place but the last is the child of one";

// `tensors` are place, parent, child_ptr, child and num_columns of a TreeTable.
inline Tree bind_tree(const std::vector<Tensor>& tensors) {
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
  STD_TORCH_CHECK(tree.num_inner > 0 && tree.num_classes >= 0 &&
                      tensors[3].numel() == tree.num_places() - 1 &&
                      tensors[4].numel() == tree.num_places(),
                  kNoTree);
  return tree;
}

}  // namespace hace
