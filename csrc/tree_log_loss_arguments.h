// The arguments of `tree_log_loss`, with the checks that do not read their values.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "derived.h"
#include "loss_ops.h"
#include "targets.h"
#include "tensors.h"
#include "tree_tensors.h"

namespace hace {

// The arguments with an entry per row, in the order of the schema.
struct TreeLogLossRows {
  Tensor logits;
  std::optional<Tensor> mass;
  std::optional<Tensor> index;
  std::optional<Tensor> index_weight;

  // Members are initialised in the order of their declaration.
  explicit TreeLogLossRows(Arguments& arguments)
      : logits(arguments.next<Tensor>()),
        mass(arguments.next<std::optional<Tensor>>()),
        index(arguments.next<std::optional<Tensor>>()),
        index_weight(arguments.next<std::optional<Tensor>>()) {}
};

// The others.
struct TreeLogLossRest {
  std::vector<Tensor> tree;  // the tensors of a TreeTable: hace_kernels/tree_table.py
  std::vector<int64_t> level_ptr;
  std::vector<std::optional<Tensor>> table;  // of a TargetTable: hace_kernels/target_table.py
  double row_spread;
  int64_t ignore_index;
  int64_t reduction;
  double eps;
  std::shared_ptr<Derived> derived = std::make_shared<Derived>();

  explicit TreeLogLossRest(Arguments& arguments)
      : tree(arguments.next<std::vector<Tensor>>()),
        level_ptr(arguments.next<std::vector<int64_t>>()),
        table(arguments.next<std::vector<std::optional<Tensor>>>()),
        row_spread(arguments.next<double>()),
        ignore_index(arguments.next<int64_t>()),
        reduction(arguments.next<int64_t>()),
        eps(arguments.next<double>()) {}
};

using TreeLogLossCall = LossCall<TreeLogLossRows, TreeLogLossRest>;

inline void bind_table(const TreeLogLossCall& call, int64_t num_places, Targets& targets) {
  const auto& table = call.table;
  STD_TORCH_CHECK(
      table.size() == 13 && table[0] && table[1] && table[2] && table[3],
      "a target table is the tensors place, keep, unit and share, and weight, spread, "
      "log_similarity, is_class, kept_unit, reaching, classes_below, kept and handed or "
      "None; got ",
      table.size(), " entries");
  targets.target_place = int32_vector("table.place", *table[0]);
  const int64_t num_targets = targets.num_targets = table[0]->numel();
  targets.keep = float64_vector("table.keep", *table[1], num_places);
  targets.unit = float64_vector("table.unit", *table[2], num_places);
  targets.share = float64_vector("table.share", *table[3], num_targets);
  targets.weight = table[4] ? float64_vector("table.weight", *table[4], num_targets) : nullptr;
  targets.spread = table[5] ? float64_vector("table.spread", *table[5], num_targets) : nullptr;
  targets.row_spread = call.row_spread;
  if (table[8] && table[9]) {
    targets.kept_unit_of_table = float32_vector("table.kept_unit", *table[8], num_places);
    targets.reaching_of_table = float64_vector("table.reaching", *table[9], num_places);
    if (table[10])
      targets.classes_below_of_table = int32_vector("table.classes_below", *table[10], num_places);
  }
  if (table[11] && table[12]) {
    targets.columns_are_alike = table[11]->numel() == 1;
    const int64_t size = targets.columns_are_alike ? 1 : num_targets;
    targets.kept_of_column = float32_vector("table.kept", *table[11], size);
    targets.handed_of_column = float32_vector("table.handed", *table[12], size);
  }
  if (!table[6]) return;
  STD_TORCH_CHECK(call.index, "tree_log_loss: soft labels are made from indices");
  STD_TORCH_CHECK(table[7], "soft labels are the two tensors log_similarity and is_class");
  targets.log_similarity = float64_vector("table.log_similarity", *table[6], num_places);
  targets.is_class = float64_vector("table.is_class", *table[7], num_places);
}

inline void bind_rows(const TreeLogLossCall& call, Targets& targets) {
  const int64_t num_rows = num_rows_of(call.logits);
  STD_TORCH_CHECK(call.mass.has_value() != call.index.has_value(),
                  "tree_log_loss: targets are either mass or index");
  if (call.mass) {
    const Tensor& mass = *call.mass;
    check_rows_or_pixels("tree_log_loss", mass);
    STD_TORCH_CHECK(mass.dim() == call.logits.dim() && mass.size(0) == call.logits.size(0) &&
                        num_rows_of(mass) == num_rows && mass.size(1) == targets.num_targets &&
                        mass.scalar_type() == loss_type(call.logits),
                    "tree_log_loss: mass must be (", num_rows, ", ", targets.num_targets,
                    "), laid out as the logits are, in the loss's dtype");
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
    STD_TORCH_CHECK(index.size(1) == 1, "tree_log_loss: several indices per row need weights");
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
  check_rows_or_pixels("tree_log_loss", call.logits);
  check_reduction("tree_log_loss", call.reduction);
  STD_TORCH_CHECK(call.logits.size(1) == tree.num_classes, "tree_log_loss: logits must have ",
                  tree.num_classes, " columns, got ", call.logits.size(1));
}

inline Targets bind_targets(const TreeLogLossCall& call, const Tree& tree) {
  Targets targets = {};
  bind_table(call, tree.num_places(), targets);
  bind_rows(call, targets);
  return targets;
}

}  // namespace hace
