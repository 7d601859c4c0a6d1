// Rings: a row's loss, and the formula of every piece's gradient, from the pieces' sums.
#pragma once

#include "path_plan.h"

namespace hace {

// Reads max, sum and moment of the plan's pieces. Writes the row's loss, without its weight, and
// the coefficients of the pieces' gradients, times the row's factor. path_log_loss_kernel.cpp has
// the derivation.
void resolve_rings(const PathLogLossProblem&, Plan&);

}  // namespace hace
