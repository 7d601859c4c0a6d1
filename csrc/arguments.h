// How an op takes its arguments from torch's stack: one after the other, in the order of its schema
// (hace_kernels/schemas.py), into a struct that names them. The forward and the backward of a loss
// share that struct.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

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

// `op(call, with_grad)` as a kernel of the schema `(call…, bool with_grad) -> (loss, gradient)`.
template <typename Call, std::tuple<Tensor, Tensor> (*op)(const Call&, bool)>
void boxed_loss(StableIValue* stack, uint64_t num_arguments, uint64_t) {
  Arguments arguments(stack, num_arguments);
  const Call call(arguments);
  const bool with_grad = arguments.next<bool>();
  arguments.end();
  const auto [loss, grad] = op(call, with_grad);
  stack[0] = torch::stable::detail::from(loss);
  stack[1] = torch::stable::detail::from(grad);
}

// `op(grad_loss, call)` as a kernel of the schema `(grad_loss, call…) -> gradient`.
template <typename Call, Tensor (*op)(const Tensor&, const Call&)>
void boxed_backward(StableIValue* stack, uint64_t num_arguments, uint64_t) {
  Arguments arguments(stack, num_arguments);
  const Tensor grad_loss = arguments.next<Tensor>();
  const Call call(arguments);
  arguments.end();
  stack[0] = torch::stable::detail::from(op(grad_loss, call));
}

}  // namespace hace
