// Logits (N, C, S), in which the S pixels of a class lie side by side as in images, for kernels
// that take rows. A patch of neighbouring pixels is turned into rows that stay in the cache, the
// kernel works on these, and their gradient is turned back. No copy is as large as the logits.
//
// Memory traffic: the logits are read and the gradient is written once, as for rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "large_results.h"
#include "parallel.h"
#include "patch_kernel.h"
#include "scratch.h"
#include "tensors.h"

namespace hace {

// Pixels (N, C, S), with any strides between images and between columns.
struct Pixels {
  int64_t num_images;
  int64_t columns;
  int64_t size;  // S
  int64_t image_stride;
  int64_t column_stride;
  Element element;
  int64_t bytes;  // of an element

  explicit Pixels(const Tensor& tensor)
      : num_images(tensor.size(0)),
        columns(tensor.size(1)),
        size(tensor.size(2)),
        image_stride(tensor.stride(0)),
        column_stride(tensor.stride(1)),
        element(element_of(tensor)),
        bytes(static_cast<int64_t>(tensor.element_size())) {}

  // Stores are fast only if rows are a whole number of cache lines apart.
  int64_t row_stride() const { return (columns + 15) / 16 * 16; }
  int64_t offset(int64_t image, int64_t pixel) const {
    return (image * image_stride + pixel) * bytes;
  }
};

// The rows of a patch: `first` to `first + count` of the batch.
struct Patch {
  int64_t image;
  int64_t pixel;
  int64_t first;
  int64_t count;
};

// Copies a patch of `pixels` into `scratch`, as rows `pixels.row_stride()` apart.
inline void* rows_of(const Pixels& pixels, const void* data, const Patch& patch, Scratch& scratch) {
  void* const rows = scratch.get(patch.count * pixels.row_stride() * pixels.bytes);
  const PatchShape shape = {patch.count, pixels.columns, pixels.column_stride, pixels.row_stride()};
  HACE_BEST_KERNEL(patch_kernel, pixels.element)
      .to_rows(shape, static_cast<const char*>(data) + pixels.offset(patch.image, patch.pixel),
               rows);
  return rows;
}

// Copies rows (count, C) to their places in `data`, which has the pixels' shape and is contiguous.
inline void put_rows(const Pixels& pixels, const void* rows, const Patch& patch, void* data,
                     bool past_caches) {
  const PatchShape shape = {patch.count, pixels.columns, pixels.size, pixels.columns};
  const int64_t at = patch.image * pixels.columns * pixels.size + patch.pixel;
  HACE_BEST_KERNEL(patch_kernel, pixels.element)
      .to_pixels(shape, rows, static_cast<char*>(data) + at * pixels.bytes, past_caches);
}

// How many bytes of logits a patch has. They share a cache of 1 MiB with the patch's gradient and
// with the kernel's scratch memory.
constexpr int64_t kPatchBytes = int64_t{1} << 16;

// Calls each(patch) for patches of all rows, on all threads. The patches are the same for any
// number of threads.
template <typename Each>
inline void for_patches(const Pixels& pixels, Each each) {
  const int64_t row_bytes = std::max<int64_t>(1, pixels.columns * pixels.bytes);
  const int64_t most = std::clamp<int64_t>(kPatchBytes / row_bytes / 16 * 16, 16, int64_t{256});
  const int64_t in_image = (pixels.size + most - 1) / most;
  parallel_for(0, pixels.num_images * in_image, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t image = i / in_image, pixel = i % in_image * most;
      each(Patch{image, pixel, image * pixels.size + pixel, std::min(most, pixels.size - pixel)});
    }
  });
}

inline bool writes_pixels_past_caches(const void* result, const Pixels& pixels) {
  return past_caches_pays(result, pixels.num_images * pixels.columns * pixels.size * pixels.bytes);
}

}  // namespace hace
