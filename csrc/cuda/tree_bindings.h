// What the bindings of the tree ops have in common.
#pragma once

#include <vector>

#include "../tree_tensors.h"
#include "device.h"
#include "tree.cuh"

namespace hace {

inline void check_tree(const char* op, const std::vector<Tensor>& tensors,
                       const std::vector<int64_t>& level_ptr, const Tensor& rows) {
  const Tree tree = bind_tree(tensors);
  for (const Tensor& tensor : tensors) check_device(op, "the tree", tensor, rows);
  STD_TORCH_CHECK(tree.num_places() < int64_t{1} << 30, op, ": a tree of ", tree.num_places(),
                  " places is too large");
  bool rising = level_ptr.size() > 1 && level_ptr.front() == 0 &&
                level_ptr.back() == tree.num_inner &&
                level_ptr[level_ptr.size() - 2] == tree.num_inner - 1;
  for (size_t i = 1; rising && i < level_ptr.size(); ++i) rising = level_ptr[i - 1] <= level_ptr[i];
  STD_TORCH_CHECK(rising, op, ": level_ptr must rise from 0 to ", tree.num_inner,
                  ", the last level being the virtual root");
}

// A tree with its levels on the device, valid for the lifetime of this object.
class TreeOnDevice {
 public:
  TreeOnDevice(const std::vector<Tensor>& tensors, const std::vector<int64_t>& level_ptr,
               const Tensor& rows, cudaStream_t stream)
      : tree(bind_tree(tensors)),
        memory_(scratch(rows, levels_memory(num_levels(level_ptr)), ScalarType::Int)),
        levels(levels_of(level_ptr.data(), num_levels(level_ptr),
                         static_cast<int32_t*>(memory_.mutable_data_ptr()), stream)) {}

  const Tree tree;

 private:
  static int64_t num_levels(const std::vector<int64_t>& level_ptr) {
    return static_cast<int64_t>(level_ptr.size()) - 1;
  }

  Tensor memory_;

 public:
  const Levels levels;
};

// The memory of a plan's blocks.
class RowScratch {
 public:
  RowScratch(const Tensor& rows, const RowPlan& plan)
      : plan_(plan), memory_(scratch(rows, plan.memory_bytes, ScalarType::Byte)) {}

  RowMemory get() const {
    void* memory = plan_.memory_bytes ? memory_.mutable_data_ptr() : nullptr;
    return {static_cast<unsigned char*>(memory), plan_.row_bytes};
  }

 private:
  const RowPlan& plan_;
  Tensor memory_;
};

// The inverse of a vector of places, valid for the lifetime of this object.
class InverseOnDevice {
 public:
  InverseOnDevice(int64_t num_places, const int32_t* place, int64_t size, bool links,
                  const Tensor& rows, cudaStream_t stream)
      : memory_(scratch(rows, inverse_memory(num_places, size, links), ScalarType::Int)),
        inverse(invert(num_places, place, size, links,
                       static_cast<int32_t*>(memory_.mutable_data_ptr()), stream)) {}

 private:
  Tensor memory_;

 public:
  const Inverse inverse;
};

}  // namespace hace
