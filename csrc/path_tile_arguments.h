// The arguments of `path_measure` and `path_write` on any device: their checks, and the plain data
// that the kernels are given.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "path_tile.h"
#include "tensors.h"

namespace hace {

// The arguments of both ops, with their names in hace_kernels/schemas.py.
struct PathTileCall {
  const char* op;
  const Tensor& logits;
  const Tensor& start;
  const Tensor& stop;
  int64_t first;

  PathTile tile() const {
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

  // An array with one number per ring.
  const Tensor& rings(const char* what, const Tensor& array, ScalarType type) const {
    const int64_t num_rings = start.size(1) + 1;
    STD_TORCH_CHECK(array.dim() == 2 && array.size(0) == logits.size(0) &&
                        array.size(1) == num_rings && array.scalar_type() == type &&
                        array.is_contiguous(),
                    op, ": ", what, " must be contiguous (", logits.size(0), ", ", num_rings,
                    "), one entry per ring, in the rings' type");
    return array;
  }

  const double* doubles(const char* what, const Tensor& array) const {
    return rings(what, array, ScalarType::Double).const_data_ptr<double>();
  }

  const double* doubles(const char* what, const std::optional<Tensor>& array) const {
    return array ? doubles(what, *array) : nullptr;
  }

  RingSums sums(const Tensor& ring_max, const Tensor& ring_sum,
                const std::optional<Tensor>& ring_moment) const {
    const auto to = [&](const char* what, const Tensor& array) {
      return rings(what, array, ScalarType::Double).mutable_data_ptr<double>();
    };
    RingSums sums;
    sums.max = rings("ring_max", ring_max, loss_type(logits)).mutable_data_ptr();
    sums.sum = to("ring_sum", ring_sum);
    sums.moment = ring_moment ? to("ring_moment", *ring_moment) : nullptr;
    return sums;
  }

  RingFactors factors(const Tensor& shift, const Tensor& factor, const Tensor& offset,
                      const std::optional<Tensor>& slope,
                      const std::optional<Tensor>& middle) const {
    STD_TORCH_CHECK(slope.has_value() == middle.has_value(), op, ": slope and middle go together");
    RingFactors factors;
    factors.shift = rings("shift", shift, loss_type(logits)).const_data_ptr();
    factors.factor = doubles("factor", factor);
    factors.offset = doubles("offset", offset);
    factors.slope = doubles("slope", slope);
    factors.middle = doubles("middle", middle);
    return factors;
  }

  TileGradient gradient(const Tensor& grad) const {
    check_rows(op, grad);
    STD_TORCH_CHECK(grad.size(0) == logits.size(0) && grad.size(1) == logits.size(1) &&
                        grad.scalar_type() == logits.scalar_type(),
                    op, ": grad must have the logits' shape and type");
    return {grad.mutable_data_ptr(), grad.stride(0)};
  }
};

}  // namespace hace
