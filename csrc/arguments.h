// How an op takes its arguments from torch's stack: one after the other, in the order of its schema
// (hace_kernels/schemas.py), into a struct that names them. The ops of a loss share that struct.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#include "tensors.h"

namespace hace {

class Arguments {
 public:
  Arguments(StableIValue* stack, uint64_t size) : stack_(stack), left_(size) {}

  template <typename T>
  T next() {
    STD_TORCH_CHECK(left_ > 0, "the schema has fewer arguments than the kernel takes");
    --left_;
    return torch::stable::detail::to<T>(*stack_++);
  }

  void end() const {
    STD_TORCH_CHECK(left_ == 0, "the schema has ", left_, " arguments more than the kernel takes");
  }

 private:
  StableIValue* stack_;
  uint64_t left_;
};

}  // namespace hace
