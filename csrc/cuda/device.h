// What the bindings need on the host around a launch: the tensors' device and its current stream,
// scratch memory, and errors.
#pragma once

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "../empty_tensor.h"
#include "launch.cuh"

#ifdef __CUDACC__

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

// The dispatch key that the ops are registered for.
#define HACE_CUDA_KEY CUDA

namespace hace {

using DeviceGuard = torch::stable::accelerator::DeviceGuard;

// PyTorch's current stream. The function for it is in libtorch_cuda. A build against a CPU-only
// torch cannot link to that library, but it is in the process wherever there is a CUDA tensor.
inline cudaStream_t current_stream(int device) {
  using GetStream = AOTITorchError (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* found = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<GetStream>(found);
  }();
  STD_TORCH_CHECK(get_stream,
                  "libtorch_cuda.so has no aoti_torch_get_current_cuda_stream: this torch is not "
                  "one that hace_kernels supports (2.11 or later, built for CUDA)");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace hace

#else

#define HACE_CUDA_KEY CPU

namespace hace {

struct DeviceGuard {
  explicit DeviceGuard(int) {}
};

inline cudaStream_t current_stream(int) { return nullptr; }

}  // namespace hace

#endif

namespace hace {

// Makes the device of the rows the current one for its lifetime.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const Tensor& rows)
      : guard_(rows.get_device_index()),
        device_(device_of(rows.get_device_index(), current_stream(rows.get_device_index()))) {}

  const Device& device() const { return device_; }

 private:
  DeviceGuard guard_;
  Device device_;
};

// An uninitialised contiguous tensor on the device of another one.
inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& shape, ScalarType type) {
  const int32_t device_type =
      like.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
  return empty_tensor(shape, type, device_type, like.get_device_index());
}

// Memory for the duration of a call. It comes from torch's allocator, which reuses it in the order
// of the stream.
inline Tensor scratch(const Tensor& like, int64_t size, ScalarType type) {
  return new_tensor(like, {size}, type);
}

// Throws if a launch failed, with the op and the shape of its rows.
inline void check_launches(const char* op, const Tensor& rows) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, op, ": a kernel for rows of shape (", rows.size(0), ", ",
                  rows.size(1), ") could not be launched: ", cudaGetErrorString(error));
}

// Throws unless a tensor that the kernels read is on the device of the rows.
inline void check_device(const char* op, const char* what, const Tensor& tensor,
                         const Tensor& rows) {
  STD_TORCH_CHECK(
      tensor.get_device_index() == rows.get_device_index() && tensor.is_cuda() == rows.is_cuda(),
      op, ": ", what, " must be on the device of the logits");
}

}  // namespace hace
