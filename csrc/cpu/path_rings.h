// Rings: from the pieces' sums to a row's loss and every piece's part of the gradient.
#pragma once

#include "path_plan.h"

namespace hace {

// Takes max, sum and moment of the plan's pieces; writes the row's loss, without a weight, and what
// the pieces' gradients are, times the row's factor. The derivation is in path_log_loss_kernel.cpp.
void resolve_rings(const PathLogLossProblem&, Plan&);

}  // namespace hace
