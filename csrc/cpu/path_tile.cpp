// `path_measure` and `path_write` on the CPU: divides the rows among threads. The arithmetic is in
// path_tile_kernel.cpp.

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../path_tile_arguments.h"
#include "isa.h"
#include "parallel.h"
#include "path_tile_kernel.h"
#include "subnormals.h"

namespace hace {
namespace {

template <typename Run>
void for_rows(const PathTileCall& call, const PathTile& tile, Run run) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(tile.columns, 1));
  const PathTileKernel kernel = HACE_BEST_KERNEL(path_tile_kernel, element_of(call.logits));
  parallel_for(0, call.logits.size(0), grain, [&](int64_t begin, int64_t end) {
    const SubnormalsAreZero guard;
    run(kernel, begin, end);
  });
}

void path_measure(const Tensor& logits, const Tensor& start, const Tensor& stop, int64_t first,
                  const Tensor& ring_max, const Tensor& ring_sum,
                  const std::optional<Tensor>& ring_moment) {
  const PathTileCall call = {"path_measure", logits, start, stop, first};
  const PathTile tile = call.tile();
  const RingSums sums = call.sums(ring_max, ring_sum, ring_moment);
  for_rows(call, tile, [&](const PathTileKernel& kernel, int64_t begin, int64_t end) {
    kernel.measure(tile, sums, begin, end);
  });
}

void path_write(const Tensor& logits, const Tensor& start, const Tensor& stop, int64_t first,
                const Tensor& shift, const Tensor& factor, const Tensor& offset,
                const std::optional<Tensor>& slope, const std::optional<Tensor>& middle,
                const Tensor& grad) {
  const PathTileCall call = {"path_write", logits, start, stop, first};
  const PathTile tile = call.tile();
  const RingFactors factors = call.factors(shift, factor, offset, slope, middle);
  const TileGradient to = call.gradient(grad);
  for_rows(call, tile, [&](const PathTileKernel& kernel, int64_t begin, int64_t end) {
    kernel.write(tile, factors, to, begin, end);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("path_measure", TORCH_BOX(&path_measure));
  m.impl("path_write", TORCH_BOX(&path_write));
}

}  // namespace hace
