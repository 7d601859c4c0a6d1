// What the bindings of the losses over trees and over DAGs have in common.
#pragma once

#include <optional>

#include "../tree_log_loss_arguments.h"
#include "row_reduction.h"
#include "tree_bindings.h"
#include "tree_loss.cuh"

namespace hace {

inline void check_target_devices(const char* op, const TreeLogLossCall& call) {
  for (const std::optional<Tensor>& tensor : {call.mass, call.index, call.index_weight})
    if (tensor) check_device(op, "the target", *tensor, call.logits);
  for (const std::optional<Tensor>& tensor : call.table)
    if (tensor) check_device(op, "the target table", *tensor, call.logits);
}

// Launches the kernel of a loss on a problem, and reduces the rows' losses. It fills in what the
// problems of trees and DAGs have in common, except for the tree's levels. A row needs `row_bytes`.
template <typename Stored, template <typename> typename Problem>
void launch_loss(const TreeLogLossCall& call, const LossOutputs& outputs, const Tree& tree,
                 const Targets& targets, int64_t row_bytes, const Device& device,
                 void (*kernel)(Problem<Stored>), Problem<Stored>& problem) {
  const Tensor& logits = call.logits;
  bind_loss(logits, call.eps, outputs, problem);
  problem.targets = targets;
  const RowPlan plan = plan_rows(tree, problem.num_rows, row_bytes, device);
  const RowScratch memory(logits, plan);
  problem.memory = memory.get();
  RowReduction<work_t<Stored>> reduction(logits, outputs.loss, call.reduction);
  problem.row_loss = reduction.row_loss();
  if (call.reduction == kMean)
    problem.divisor = reduction.weigh(targets.single() ? targets.index : nullptr, targets.weight,
                                      targets.num_targets, call.ignore_index, device.stream);
  launch_rows(kernel, problem, plan, device);
  reduction.reduce(device.stream);
}

}  // namespace hace
