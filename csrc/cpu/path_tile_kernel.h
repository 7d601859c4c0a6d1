// The interface between the drivers of `path_measure` and `path_write` (path_tile.cpp) and their
// kernels, which are compiled once per instruction set (path_tile_kernel.cpp). Plain data and
// functions, without torch.
#pragma once

#include <cstdint>

#include "element.h"
#include "path_tile.h"

namespace hace {

struct PathTileKernel {
  // Merges rows [first, last) of the tile into their rings.
  void (*measure)(const PathTile&, const RingSums&, int64_t first, int64_t last);
  // Writes the gradient of rows [first, last).
  void (*write)(const PathTile&, const RingFactors&, const TileGradient&, int64_t first,
                int64_t last);
};

// One definition per compiled instruction set.
PathTileKernel path_tile_kernel_generic(Element);
PathTileKernel path_tile_kernel_avx2(Element);
PathTileKernel path_tile_kernel_avx512(Element);

}  // namespace hace
