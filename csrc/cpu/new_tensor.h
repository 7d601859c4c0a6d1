// The tensors in which ops on the CPU return results.
#pragma once

#include <cstdint>
#include <vector>

#include "../empty_tensor.h"
#include "large_results.h"

namespace hace {

// An uninitialised contiguous CPU tensor.
inline Tensor new_tensor(const std::vector<int64_t>& shape, ScalarType type) {
  Tensor result = empty_tensor(shape, type, aoti_torch_device_type_cpu(), 0);
  const int64_t bytes = result.numel() * static_cast<int64_t>(result.element_size());
  if (bytes > kLargeResult && has_no_pages(result.const_data_ptr(), bytes))
    ask_for_large_pages(result.mutable_data_ptr(), bytes);
  return result;
}

}  // namespace hace
