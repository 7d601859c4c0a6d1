// What the kernels of `path_measure` and `path_write` are given on any device: plain data, without
// torch.
#pragma once

#include <cstdint>

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
// outside of all of them. `max` is of the working type.
struct RingSums {
  void* max;
  double* sum;     // of exp(z - max)
  double* moment;  // of (z - max) exp(z - max); null: not needed
};

// The gradient in each ring, (rows, K+1) contiguous:
// exp(z - shift) (factor + slope (z - shift - middle)) + offset.
struct RingFactors {
  const void* shift;  // of the working type
  const double* factor;
  const double* offset;
  const double* slope;  // null: 0, and middle is not read
  const double* middle;
};

// Where the gradient of a tile goes, (rows, columns); it may be the logits, with the same strides.
struct TileGradient {
  void* grad;
  int64_t row_stride;
};

}  // namespace hace
