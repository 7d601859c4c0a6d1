// `path_measure` and `path_write` on the CPU: checks and binds the arguments, splits the rows over
// threads. The arithmetic is in path_tile_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>

#include "isa.h"
#include "parallel.h"
#include "path_tile_kernel.h"
#include "subnormals.h"
#include "tensors.h"

namespace hace {
namespace {

const Tensor& ring_array(const char* op, const char* what, const Tensor& array,
                         const Tensor& logits, int64_t num_entries, ScalarType type) {
  STD_TORCH_CHECK(array.dim() == 2 && array.size(0) == logits.size(0) &&
                      array.size(1) == num_entries + 1 && array.scalar_type() == type &&
                      array.is_contiguous(),
                  op, ": ", what, " must be contiguous (", logits.size(0), ", ", num_entries + 1,
                  "), one entry per ring, in the rings' type");
  return array;
}

PathTile tile_of(const char* op, const Tensor& logits, const Tensor& start, const Tensor& stop,
                 int64_t first) {
  check_rows(op, logits);
  STD_TORCH_CHECK(start.dim() == 2 && start.size(0) == logits.size(0) && stop.dim() == 2 &&
                      stop.size(0) == start.size(0) && stop.size(1) == start.size(1) &&
                      start.scalar_type() == ScalarType::Int && start.is_contiguous() &&
                      stop.scalar_type() == ScalarType::Int && stop.is_contiguous(),
                  op, ": start and stop must be contiguous int32 (", logits.size(0),
                  ", K), the intervals of each row");
  PathTile tile;
  tile.logits = logits.const_data_ptr();
  tile.row_stride = logits.stride(0);
  tile.columns = logits.size(1);
  tile.first = first;
  tile.num_entries = start.size(1);
  tile.start = start.const_data_ptr<int32_t>();
  tile.stop = stop.const_data_ptr<int32_t>();
  return tile;
}

int64_t grain_of(const PathTile& tile) {
  return std::max<int64_t>(1, 32768 / std::max<int64_t>(tile.columns, 1));
}

void path_measure(const Tensor& logits, const Tensor& start, const Tensor& stop, int64_t first,
                  const Tensor& ring_max, const Tensor& ring_sum,
                  const std::optional<Tensor>& ring_moment) {
  const char* op = "path_measure";
  const PathTile tile = tile_of(op, logits, start, stop, first);
  const auto rings = [&](const char* what, const Tensor& array, ScalarType type) -> const Tensor& {
    return ring_array(op, what, array, logits, tile.num_entries, type);
  };
  RingSums sums;
  sums.max = rings("ring_max", ring_max, loss_type(logits)).mutable_data_ptr();
  sums.sum = rings("ring_sum", ring_sum, ScalarType::Double).mutable_data_ptr<double>();
  sums.moment =
      ring_moment
          ? rings("ring_moment", *ring_moment, ScalarType::Double).mutable_data_ptr<double>()
          : nullptr;
  const PathTileKernel kernel = HACE_BEST_KERNEL(path_tile_kernel, element_of(logits));
  parallel_for(0, logits.size(0), grain_of(tile), [&](int64_t begin, int64_t end) {
    const SubnormalsAreZero guard;
    kernel.measure(tile, sums, begin, end);
  });
}

void path_write(const Tensor& logits, const Tensor& start, const Tensor& stop, int64_t first,
                const Tensor& shift, const Tensor& factor, const Tensor& offset,
                const std::optional<Tensor>& slope, const std::optional<Tensor>& middle,
                const Tensor& grad) {
  const char* op = "path_write";
  const PathTile tile = tile_of(op, logits, start, stop, first);
  check_rows(op, grad);
  STD_TORCH_CHECK(grad.size(0) == logits.size(0) && grad.size(1) == logits.size(1) &&
                      grad.scalar_type() == logits.scalar_type(),
                  "path_write: grad must have the logits' shape and type");
  STD_TORCH_CHECK(slope.has_value() == middle.has_value(),
                  "path_write: slope and middle go together");
  const auto rings = [&](const char* what, const Tensor& array) {
    return ring_array(op, what, array, logits, tile.num_entries, ScalarType::Double)
        .const_data_ptr<double>();
  };
  RingFactors factors;
  factors.shift =
      ring_array(op, "shift", shift, logits, tile.num_entries, loss_type(logits)).const_data_ptr();
  factors.factor = rings("factor", factor);
  factors.offset = rings("offset", offset);
  factors.slope = slope ? rings("slope", *slope) : nullptr;
  factors.middle = middle ? rings("middle", *middle) : nullptr;
  void* to = grad.mutable_data_ptr();
  const int64_t grad_stride = grad.stride(0);
  const PathTileKernel kernel = HACE_BEST_KERNEL(path_tile_kernel, element_of(logits));
  parallel_for(0, logits.size(0), grain_of(tile), [&](int64_t begin, int64_t end) {
    const SubnormalsAreZero guard;
    kernel.write(tile, factors, to, grad_stride, begin, end);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("path_measure", TORCH_BOX(&path_measure));
  m.impl("path_write", TORCH_BOX(&path_write));
}

}  // namespace hace
