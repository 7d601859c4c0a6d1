// Uninitialised tensors. torch::stable::new_empty looks its op up by name, which takes longer than
// the allocation.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <vector>

#include "tensors.h"

namespace hace {

// A contiguous tensor on the device with this type and index, as PyTorch numbers them.
inline Tensor empty_tensor(const std::vector<int64_t>& shape, ScalarType type, int32_t device_type,
                           int32_t device_index) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle tensor;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), dtype,
                                                  device_type, device_index, &tensor));
  return Tensor(tensor);
}

}  // namespace hace
