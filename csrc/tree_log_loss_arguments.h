// The arguments of `tree_log_loss` and what can be said of them without reading what they hold.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "targets.h"
#include "tensors.h"
#include "tree_tensors.h"

namespace hace {

// Everything of a call but the logits' gradient and the tree's levels.
struct TreeLogLossCall {
  const Tensor& logits;
  const std::optional<Tensor>& mass;
  const std::optional<Tensor>& index;
  const std::optional<Tensor>& index_weight;
  const std::vector<Tensor>& tree;
  const std::vector<Tensor>& targets;
  const std::optional<Tensor>& weight;
  const std::optional<Tensor>& spread;
  double row_spread;
  const std::vector<Tensor>& soft_labels;
  int64_t ignore_index;
  int64_t reduction;
  double eps;
};

inline void bind_soft_labels(const TreeLogLossCall& call, int64_t num_places, Targets& targets) {
  STD_TORCH_CHECK(call.soft_labels.empty() || call.soft_labels.size() == 3,
                  "tree_log_loss: soft_labels are [] or the tensors log_similarity, is_class and "
                  "apart; got ",
                  call.soft_labels.size());
  if (call.soft_labels.empty()) return;
  STD_TORCH_CHECK(call.index, "tree_log_loss: soft labels are made from indices");
  targets.log_similarity =
      float64_vector("soft_labels.log_similarity", call.soft_labels[0], num_places);
  targets.is_class = float64_vector("soft_labels.is_class", call.soft_labels[1], num_places);
  const Tensor& apart = call.soft_labels[2];
  STD_TORCH_CHECK(apart.scalar_type() == ScalarType::Bool && apart.is_contiguous() &&
                      apart.numel() == targets.num_targets,
                  "soft_labels.apart must be a contiguous bool vector of ", targets.num_targets,
                  " entries");
  targets.apart = apart.const_data_ptr<bool>();
}

inline void bind_table(const TreeLogLossCall& call, int64_t num_places, Targets& targets) {
  STD_TORCH_CHECK(call.targets.size() == 4,
                  "tree_log_loss: targets are the tensors place, keep, unit and share; got ",
                  call.targets.size());
  targets.target_place = int32_vector("targets.place", call.targets[0]);
  const int64_t num_targets = targets.num_targets = call.targets[0].numel();
  targets.keep = float64_vector("targets.keep", call.targets[1], num_places);
  targets.unit = float64_vector("targets.unit", call.targets[2], num_places);
  targets.share = float64_vector("targets.share", call.targets[3], num_targets);
  targets.spread = call.spread ? float64_vector("spread", *call.spread, num_targets) : nullptr;
  targets.row_spread = call.row_spread;
  if (call.weight) float64_vector("weight", *call.weight, num_targets);
}

inline void bind_rows(const TreeLogLossCall& call, Targets& targets) {
  const int64_t num_rows = call.logits.size(0);
  STD_TORCH_CHECK(call.mass.has_value() != call.index.has_value(),
                  "tree_log_loss: targets are either mass or index");
  if (call.mass) {
    const Tensor& mass = *call.mass;
    check_rows("tree_log_loss", mass);
    STD_TORCH_CHECK(mass.size(0) == num_rows && mass.size(1) == targets.num_targets &&
                        mass.scalar_type() == loss_type(call.logits),
                    "tree_log_loss: mass must be (", num_rows, ", ", targets.num_targets,
                    ") in the loss's dtype");
    targets.mass = mass.const_data_ptr();
    targets.mass_stride = mass.stride(0);
    return;
  }
  const Tensor& index = *call.index;
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 2 &&
                      index.size(0) == num_rows && index.is_contiguous(),
                  "tree_log_loss: index must be a contiguous int64 (", num_rows, ", K)");
  targets.index = index.const_data_ptr<int64_t>();
  targets.num_indices = index.size(1);
  targets.ignore_index = call.ignore_index;
  if (!call.index_weight) {
    STD_TORCH_CHECK(index.size(1) == 1, "tree_log_loss: several indices a row need weights");
    return;
  }
  const Tensor& weight = *call.index_weight;
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Double && weight.is_contiguous() &&
                      weight.dim() == 2 && weight.size(0) == num_rows &&
                      weight.size(1) == index.size(1),
                  "tree_log_loss: index_weight must be a contiguous float64 of the index's shape");
  targets.index_weight = weight.const_data_ptr<double>();
}

inline void check_logits(const TreeLogLossCall& call, const Tree& tree) {
  check_rows("tree_log_loss", call.logits);
  check_reduction("tree_log_loss", call.reduction);
  STD_TORCH_CHECK(call.logits.size(1) == tree.num_classes, "tree_log_loss: logits must have ",
                  tree.num_classes, " columns, got ", call.logits.size(1));
}

inline Targets bind_targets(const TreeLogLossCall& call, const Tree& tree) {
  Targets targets = {};
  bind_table(call, tree.num_places(), targets);
  bind_soft_labels(call, tree.num_places(), targets);
  bind_rows(call, targets);
  return targets;
}

}  // namespace hace
