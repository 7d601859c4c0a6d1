// The weights of rows, from the targets of `tree_log_loss` and `dag_log_loss` on the CPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "errors.h"
#include "rows.h"
#include "targets.h"

namespace hace {

constexpr const char* kNoPlace = "a target is at a place that no node has";

// A row of indices counts if one of them is not ignored. Its weight is that of its target if there
// is a single index, and 1 otherwise. Places are below `num_places`.
inline Rows weigh_rows(const Targets& targets, int64_t num_rows, int64_t num_places,
                       int64_t reduction) {
  const bool single = targets.single();
  Rows rows;
  rows.factor.resize(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    bool counts = targets.mass != nullptr, not_a_number = false;
    for (int64_t k = 0; k < targets.num_indices; ++k) {
      const int64_t at = row * targets.num_indices + k;
      const int64_t target = targets.index[at];
      if (target == targets.ignore_index) continue;
      HACE_CHECK_INDEX(target >= 0 && target < targets.num_targets, "target ", target, " of row ",
                       row, " is out of range: it must be in [0, ", targets.num_targets, ")");
      HACE_CHECK_INDEX(targets.target_place[target] >= 0, "target ", target, " of row ", row,
                       " has no class at or below it, so its probability is 0 whatever the logits");
      STD_TORCH_CHECK(targets.target_place[target] < num_places, kNoPlace);
      counts = true;
      // The loss would be NaN, and the kernels mark columns that are not a target's with NaN.
      if (std::isnan(targets.share[target]) || (!single && std::isnan(targets.index_weight[at])))
        not_a_number = true;
      if (single) rows.total += targets.weight ? targets.weight[target] : 1.0;
    }
    rows.factor[row] = not_a_number ? std::numeric_limits<double>::quiet_NaN() : counts;
  }
  if (!single) rows.total = static_cast<double>(num_rows);
  if (reduction == kMean)
    for (double& factor : rows.factor)
      if (factor != 0) factor /= rows.total;
  return rows;
}

}  // namespace hace
