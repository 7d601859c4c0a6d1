// `scale_in_place` on a GPU.

#include <algorithm>

#include "device.h"
#include "scale_in_place.cuh"

namespace hace {
namespace {

// Elements that a thread multiplies.
constexpr int64_t kPerThread = 16;

void scale_in_place(Tensor grad, const Tensor& factor) {
  STD_TORCH_CHECK(
      grad.is_contiguous() && factor.numel() == 1 && factor.scalar_type() == loss_type(grad),
      "scale_in_place: the gradient must be contiguous and the factor one number of the "
      "loss's dtype");
  check_device("scale_in_place", "the factor", factor, grad);
  const int64_t size = grad.numel();
  if (size == 0) return;
  const OnDeviceOf here(grad);
  const int64_t per_block = kScaleThreads * kPerThread;
  const int64_t blocks = std::min<int64_t>((size + per_block - 1) / per_block, INT32_MAX);
  for_element(element_of(grad), [&](auto stored) {
    using Stored = decltype(stored);
    HACE_LAUNCH((scale_kernel<Stored>), dim3(static_cast<unsigned>(blocks)), dim3(kScaleThreads), 0,
                here.device().stream, static_cast<Stored*>(grad.mutable_data_ptr()),
                static_cast<const work_t<Stored>*>(factor.const_data_ptr()), size);
  });
  check_launches("scale_in_place", grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("scale_in_place", TORCH_BOX(&scale_in_place));
}

}  // namespace hace
