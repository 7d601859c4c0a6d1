// The ops of a loss as torch calls them.
//
// To convert an argument takes longer than to read a hundred logits, and a loss has up to thirty
// tensors. So the rest may be bound once, and then travels as a single tensor.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "arguments.h"
#include "tensors.h"

namespace hace {

// The arguments of a loss: those with an entry per row, which come first, and the others.
template <typename RowArguments, typename RestArguments>
struct LossCall : RowArguments, RestArguments {
  using Rows = RowArguments;
  using Rest = RestArguments;

  LossCall(const Rows& rows, const Rest& rest) : Rows(rows), Rest(rest) {}
  explicit LossCall(Arguments& arguments) : Rows(arguments), Rest(arguments) {}
};

// `op(call, with_grad)` as a kernel of the schema `(rows…, rest…, bool with_grad) -> (loss,
// gradient)`.
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

// `op(grad_loss, call)` as a kernel of the schema `(grad_loss, rows…, rest…) -> gradient`.
template <typename Call, Tensor (*op)(const Tensor&, const Call&)>
void boxed_backward(StableIValue* stack, uint64_t num_arguments, uint64_t) {
  Arguments arguments(stack, num_arguments);
  const Tensor grad_loss = arguments.next<Tensor>();
  const Call call(arguments);
  arguments.end();
  stack[0] = torch::stable::detail::from(op(grad_loss, call));
}

// What a tensor of bound arguments holds.
template <typename Rest>
struct Bound {
  const void* type = &of_type;  // the address tells which `Rest` it is
  const void* self = this;      // another one in a copy
  Rest rest;

  explicit Bound(Arguments& arguments) : rest(arguments) {}

  static inline const char of_type = 0;
};

// A kernel of the schema `(rest…) -> bound`. The tensor owns the arguments.
template <typename Rest>
void boxed_bind(StableIValue* stack, uint64_t num_arguments, uint64_t) {
  Arguments arguments(stack, num_arguments);
  auto* const bound = new Bound<Rest>(arguments);
  arguments.end();
  const int64_t size = sizeof(*bound), stride = 1;
  stack[0] = torch::stable::detail::from(torch::stable::from_blob(
      bound, {&size, 1}, {&stride, 1}, {torch::headeronly::DeviceType::CPU}, ScalarType::Byte,
      [](void* memory) { delete static_cast<Bound<Rest>*>(memory); }));
}

template <typename Rest>
const Rest& bound_in(const Tensor& tensor) {
  const auto* const bound = static_cast<const Bound<Rest>*>(tensor.const_data_ptr());
  STD_TORCH_CHECK(tensor.numel() == static_cast<int64_t>(sizeof(*bound)) &&
                      bound->type == &Bound<Rest>::of_type && bound->self == bound,
                  "the bound arguments are not those of this op");
  return bound->rest;
}

// `op(call, with_grad)` as a kernel of the schema `(rows…, Tensor bound, bool with_grad) -> (loss,
// gradient)`.
template <typename Call, std::tuple<Tensor, Tensor> (*op)(const Call&, bool)>
void boxed_bound_loss(StableIValue* stack, uint64_t num_arguments, uint64_t) {
  Arguments arguments(stack, num_arguments);
  const typename Call::Rows rows(arguments);
  const Tensor bound = arguments.next<Tensor>();
  const bool with_grad = arguments.next<bool>();
  arguments.end();
  const auto [loss, grad] = op(Call(rows, bound_in<typename Call::Rest>(bound)), with_grad);
  stack[0] = torch::stable::detail::from(loss);
  stack[1] = torch::stable::detail::from(grad);
}

// Implements the ops of the loss `name`.
template <typename Call, std::tuple<Tensor, Tensor> (*op)(const Call&, bool),
          Tensor (*backward)(const Tensor&, const Call&), typename Library>
void implement_loss(Library& library, const std::string& name) {
  library.impl(name.c_str(), &boxed_loss<Call, op>);
  library.impl((name + "_backward").c_str(), &boxed_backward<Call, backward>);
  library.impl((name + "_bind").c_str(), &boxed_bind<typename Call::Rest>);
  library.impl((name + "_bound").c_str(), &boxed_bound_loss<Call, op>);
}

}  // namespace hace
