// What the drivers of `path_measure` and `path_write` (path_tile.cpp) ask of their kernels, which
// are compiled once per instruction set (path_tile_kernel.cpp). Plain data and functions: no torch
// here.
#pragma once

#include <cstdint>

#include "element.h"

namespace hace {

// A tile of columns and the rows' paths. Strides count elements.
struct PathTile {
  const void* logits;  // (rows, columns), unit stride along a row
  int64_t row_stride;
  int64_t columns;
  int64_t first;         // the class position of the tile's first column
  int64_t num_entries;   // K
  const int32_t* start;  // (rows, K) contiguous: nested intervals of class positions, innermost
  const int32_t* stop;   // first
};

// (rows, K+1) contiguous; ring r < K is what interval r adds to the one inside it, ring K is
// outside all of them. `max` is of the type worked in.
struct RingSums {
  void* max;
  double* sum;     // of exp(z - max)
  double* moment;  // of (z - max) exp(z - max); null: not wanted
};

// The gradient in each ring, (rows, K+1) contiguous:
// exp(z - shift) (factor + slope (z - shift - middle)) + offset.
struct RingFactors {
  const void* shift;  // of the type worked in
  const double* factor;
  const double* offset;
  const double* slope;  // null: 0, and middle is not read
  const double* middle;
};

struct PathTileKernel {
  // Merges rows [first, last) of the tile into their rings.
  void (*measure)(const PathTile&, const RingSums&, int64_t first, int64_t last);
  // Writes their gradient; `grad` may be the logits, with the same strides.
  void (*write)(const PathTile&, const RingFactors&, void* grad, int64_t grad_stride, int64_t first,
                int64_t last);
};

// One definition per compiled instruction set.
PathTileKernel path_tile_kernel_generic(Element);
PathTileKernel path_tile_kernel_avx2(Element);
PathTileKernel path_tile_kernel_avx512(Element);

}  // namespace hace
