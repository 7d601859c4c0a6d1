// The arguments of `path_log_loss` and what can be said of them without reading what they hold.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "tensors.h"

namespace hace {

// Everything of a call but the logits' gradient.
struct PathLogLossCall {
  const Tensor& logits;
  const Tensor& target;
  const Tensor& ptr;
  const Tensor& start;
  const Tensor& stop;
  const Tensor& weight;
  const std::optional<Tensor>& order;
  int64_t max_entries;
  const std::optional<Tensor>& target_weight;
  double entropy;
  int64_t ignore_index;
  int64_t reduction;
  double eps;
};

inline void check(const PathLogLossCall& call) {
  const Tensor& logits = call.logits;
  check_rows("path_log_loss", logits);
  STD_TORCH_CHECK(
      call.target.scalar_type() == ScalarType::Long && call.target.dim() == 1 &&
          call.target.size(0) == logits.size(0) && call.target.is_contiguous(),
      "path_log_loss: target must be a contiguous int64 vector with one entry a row of logits");
  STD_TORCH_CHECK(call.ptr.scalar_type() == ScalarType::Long && call.ptr.is_contiguous() &&
                      call.start.scalar_type() == ScalarType::Int && call.start.is_contiguous() &&
                      call.stop.scalar_type() == ScalarType::Int && call.stop.is_contiguous() &&
                      call.weight.scalar_type() == ScalarType::Double &&
                      call.weight.is_contiguous(),
                  "path_log_loss: the path table must be contiguous tensors: ptr int64, start and "
                  "stop int32, weight float64");
  STD_TORCH_CHECK(call.ptr.numel() > 0 && call.start.numel() == call.stop.numel() &&
                      call.start.numel() == call.weight.numel(),
                  "path_log_loss: the path table's start, stop and weight must have one length");
  STD_TORCH_CHECK(
      !call.order || (call.order->scalar_type() == ScalarType::Int && call.order->is_contiguous() &&
                      call.order->numel() == logits.size(1)),
      "path_log_loss: order must be a contiguous int32 vector with one entry a column");
  STD_TORCH_CHECK(
      !call.target_weight || (call.target_weight->scalar_type() == ScalarType::Double &&
                              call.target_weight->is_contiguous() &&
                              call.target_weight->numel() == call.ptr.numel() - 1),
      "path_log_loss: target_weight must be a contiguous float64 vector with one entry a target");
  STD_TORCH_CHECK(call.max_entries >= 0, "path_log_loss: max_entries must not be negative, got ",
                  call.max_entries);
  check_reduction("path_log_loss", call.reduction);
}

}  // namespace hace
