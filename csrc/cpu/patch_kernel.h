// The interface of the kernels that turn rows into pixels and back, which are compiled once per
// instruction set (patch_kernel.cpp).
#pragma once

#include <cstdint>

#include "element.h"

namespace hace {

// `count` rows that are neighbours in every column: column c of row i is both
// pixels[c * column_stride + i] and rows[i * row_stride + c].
struct PatchShape {
  int64_t count;
  int64_t columns;
  int64_t column_stride;
  int64_t row_stride;
};

struct PatchKernel {
  void (*to_rows)(const PatchShape&, const void* pixels, void* rows);
  // Writes past the caches if asked to, where whole lines of memory are written.
  void (*to_pixels)(const PatchShape&, const void* rows, void* pixels, bool past_caches);
};

PatchKernel patch_kernel_generic(Element);
PatchKernel patch_kernel_avx2(Element);
PatchKernel patch_kernel_avx512(Element);

}  // namespace hace
