// Logits (N, C, S), the S pixels of a class side by side as images have them, for kernels that take
// rows: a patch of neighbouring pixels is turned into rows that stay in the cache, the kernel works
// on these, and their gradient is turned back. Nothing as large as the logits is copied.
//
// Bytes: the logits are read and the gradient is written once, as for rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "parallel.h"
#include "patch_kernel.h"
#include "scratch.h"
#include "tensors.h"

namespace hace {

// Pixels (N, C, S) of any strides from image to image and column to column.
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

  // Rows that are not a whole number of cache lines apart would not be stored at speed.
  int64_t row_stride() const { return (columns + 15) / 16 * 16; }
  int64_t offset(int64_t image, int64_t pixel) const {
    return (image * image_stride + pixel) * bytes;
  }
};

// A patch of rows at work: rows `first` to `first + count` of the batch.
struct Patch {
  int64_t image;
  int64_t pixel;
  int64_t first;
  int64_t count;
};

// The patch of `pixels` as rows `pixels.row_stride()` apart, in `scratch`.
inline void* rows_of(const Pixels& pixels, const void* data, const Patch& patch, Scratch& scratch) {
  void* const rows = scratch.get(patch.count * pixels.row_stride() * pixels.bytes);
  const PatchShape shape = {patch.count, pixels.columns, pixels.column_stride, pixels.row_stride()};
  HACE_BEST_KERNEL(patch_kernel, pixels.element)
      .to_rows(shape, static_cast<const char*>(data) + pixels.offset(patch.image, patch.pixel),
               rows);
  return rows;
}

// Rows (count, C) to their places in `data`, which has the pixels' shape and is contiguous.
inline void put_rows(const Pixels& pixels, const void* rows, const Patch& patch, void* data,
                     bool past_caches) {
  const PatchShape shape = {patch.count, pixels.columns, pixels.size, pixels.columns};
  const int64_t at = patch.image * pixels.columns * pixels.size + patch.pixel;
  HACE_BEST_KERNEL(patch_kernel, pixels.element)
      .to_pixels(shape, rows, static_cast<char*>(data) + at * pixels.bytes, past_caches);
}

// Bytes of a patch's logits; those of its gradient, and what the kernel needs, share a cache of
// 1 MiB with them.
constexpr int64_t kPatchBytes = int64_t{1} << 16;

// Calls each(patch) for patches of all rows, on all threads; the same ones for any number of them.
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

inline bool writes_pixels_past_caches(const Pixels& pixels) {
  return pixels.num_images * pixels.columns * pixels.size * pixels.bytes > (int64_t{32} << 20);
}

}  // namespace hace
