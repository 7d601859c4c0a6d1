// The tensors in which ops on the CPU return results.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <vector>

#include "large_results.h"
#include "tensors.h"

namespace hace {

// An uninitialised contiguous CPU tensor. (torch::stable::new_empty looks its op up by name: two
// calls of it are a sixth of the time of a small call of an op.)
inline Tensor new_tensor(const std::vector<int64_t>& shape, ScalarType type) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle tensor;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &tensor));
  Tensor result(tensor);
  const int64_t bytes = stride * static_cast<int64_t>(result.element_size());
  if (bytes > kLargeResult && has_no_pages(result.const_data_ptr(), bytes))
    ask_for_large_pages(result.mutable_data_ptr(), bytes);
  return result;
}

}  // namespace hace
