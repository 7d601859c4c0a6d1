// What the ops' bindings require of tensors on any device: element types, layouts, reductions.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "element.h"
#include "errors.h"

namespace hace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

// The type of losses, in which they are also computed.
inline ScalarType loss_type(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Element element_of(const Tensor& rows) {
  switch (rows.scalar_type()) {
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Double:
      return Element::kFloat64;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    case ScalarType::Half:
      return Element::kFloat16;
    default:
      HACE_CHECK_TYPE(false, "logits and values must be float32, float64, bfloat16 or float16");
  }
}

// The kernels take rows with any stride between them, and unit stride along a row.
inline void check_rows(const char* op, const Tensor& rows) {
  STD_TORCH_CHECK(rows.dim() == 2, op, ": rows must have 2 dimensions, got ", rows.dim());
  STD_TORCH_CHECK(rows.numel() == 0 || rows.size(1) == 1 || rows.stride(1) == 1, op,
                  ": rows must have unit stride, got ", rows.stride(1));
}

// Rows (B, C) as above, or pixels (N, C, S), whose rows are the S pixels of the first image, then
// those of the next. Images and columns may have any stride; pixels have unit stride.
inline void check_rows_or_pixels(const char* op, const Tensor& rows) {
  if (rows.dim() != 3) return check_rows(op, rows);
  STD_TORCH_CHECK(rows.numel() == 0 || rows.size(2) == 1 || rows.stride(2) == 1, op,
                  ": pixels must have unit stride, got ", rows.stride(2));
}

inline int64_t num_rows_of(const Tensor& rows) {
  return rows.dim() == 3 ? rows.size(0) * rows.size(2) : rows.size(0);
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) {
  std::vector<int64_t> shape(tensor.dim());
  for (int64_t i = 0; i < tensor.dim(); ++i) shape[i] = tensor.size(i);
  return shape;
}

inline void check_reduction(const char* op, int64_t reduction) {
  STD_TORCH_CHECK(reduction >= kNone && reduction <= kSum, op,
                  ": reduction must be 0 (none), 1 (mean) or 2 (sum), got ", reduction);
}

inline const int32_t* int32_vector(const char* what, const Tensor& tensor) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::Int && tensor.dim() == 1 && tensor.is_contiguous(), what,
      " must be a contiguous int32 vector");
  return tensor.const_data_ptr<int32_t>();
}

inline const int32_t* int32_vector(const char* what, const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.numel() == size, what, " must have ", size, " entries, got ",
                  tensor.numel());
  return int32_vector(what, tensor);
}

inline const float* float32_vector(const char* what, const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.dim() == 1 &&
                      tensor.is_contiguous() && tensor.numel() == size,
                  what, " must be a contiguous float32 vector of ", size, " entries");
  return tensor.const_data_ptr<float>();
}

inline const double* float64_vector(const char* what, const Tensor& tensor, int64_t size) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double && tensor.dim() == 1 &&
                      tensor.is_contiguous() && tensor.numel() == size,
                  what, " must be a contiguous float64 vector of ", size, " entries");
  return tensor.const_data_ptr<double>();
}

}  // namespace hace
