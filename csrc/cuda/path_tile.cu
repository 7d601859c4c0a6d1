// `path_measure` and `path_write` on a GPU: arguments. The arithmetic is in path_tile.cuh.

#include "../path_tile_arguments.h"
#include "device.h"
#include "path_tile.cuh"

namespace hace {
namespace {

// Calls launch with a value of the element type and the stream, unless there is nothing to do.
template <typename Launch>
void run(const PathTileCall& call, Launch launch) {
  const Tensor& logits = call.logits;
  if (logits.numel() == 0) return;
  STD_TORCH_CHECK(logits.size(1) < (int64_t{1} << 31) - 2 * kStrip, call.op, ": tiles of ",
                  logits.size(1), " columns are too wide");
  check_device(call.op, "start", call.start, logits);
  check_device(call.op, "stop", call.stop, logits);
  const OnDeviceOf here(logits);
  for_element(element_of(logits), [&](auto stored) { launch(stored, here.device().stream); });
  check_launches(call.op, logits);
}

void path_measure(const Tensor& logits, const Tensor& start, const Tensor& stop, int64_t first,
                  const Tensor& ring_max, const Tensor& ring_sum,
                  const std::optional<Tensor>& ring_moment) {
  const PathTileCall call = {"path_measure", logits, start, stop, first};
  const PathTile tile = call.tile();
  const RingSums sums = call.sums(ring_max, ring_sum, ring_moment);
  check_device(call.op, "ring_max", ring_max, logits);
  check_device(call.op, "ring_sum", ring_sum, logits);
  if (ring_moment) check_device(call.op, "ring_moment", *ring_moment, logits);
  run(call, [&](auto stored, cudaStream_t stream) {
    launch_measure<decltype(stored)>(tile, sums, logits.size(0), stream);
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
  check_device(call.op, "shift", shift, logits);
  check_device(call.op, "factor", factor, logits);
  check_device(call.op, "offset", offset, logits);
  if (slope) check_device(call.op, "slope", *slope, logits);
  if (middle) check_device(call.op, "middle", *middle, logits);
  check_device(call.op, "grad", grad, logits);
  run(call, [&](auto stored, cudaStream_t stream) {
    launch_write<decltype(stored)>(tile, factors, to, logits.size(0), stream);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, HACE_CUDA_KEY, m) {
  m.impl("path_measure", TORCH_BOX(&path_measure));
  m.impl("path_write", TORCH_BOX(&path_write));
}

}  // namespace hace
