// What threads find wrong while they run: mass on a target without a place, or a bad tree.
#pragma once

#include <cstdint>
#include <mutex>

#include "errors.h"
#include "tree_log_loss_kernel.h"
#include "tree_tensors.h"

namespace hace {

// The first row, over all threads, with which something is wrong.
class FirstFault {
 public:
  void add(const TreeLogLossFault& fault, int64_t row) {
    if (fault.row < 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (row_ < 0 || row < row_) {
      row_ = row;
      fault_ = fault;
    }
  }
  void check() const {
    STD_TORCH_CHECK(!fault_.is_of_tree, kNoTree);
    HACE_CHECK_INDEX(row_ < 0, "target ", fault_.target, " of row ", row_,
                     " has no class at or below it, so its probability is 0 whatever the logits");
  }

 private:
  std::mutex mutex_;
  int64_t row_ = -1;
  TreeLogLossFault fault_;
};

}  // namespace hace
