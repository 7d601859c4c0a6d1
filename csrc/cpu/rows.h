// What the losses over rows of logits have in common on the CPU: the rows' weights, and the
// reduction of their losses.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "large_results.h"
#include "new_tensor.h"
#include "tensors.h"

namespace hace {

// The weights of the rows, which follow from their targets.
struct Rows {
  std::vector<double> factor;  // of the row's loss and gradient; 0: the row does not count
  double total = 0;            // what `mean` divides by
};

inline void scale_by_incoming(Rows& rows, const Tensor& grad_loss, int64_t reduction) {
  const int64_t num_rows = static_cast<int64_t>(rows.factor.size());
  STD_TORCH_CHECK(grad_loss.dim() == (reduction == kNone ? 1 : 0) &&
                      (reduction != kNone || grad_loss.size(0) == num_rows),
                  "grad_loss must have the loss's shape");
  const int64_t step = reduction == kNone ? grad_loss.stride(0) : 0;
  const bool wide = grad_loss.scalar_type() == ScalarType::Double;
  const double* const wide_grad = wide ? grad_loss.const_data_ptr<double>() : nullptr;
  const float* const grad = wide ? nullptr : grad_loss.const_data_ptr<float>();
  for (int64_t row = 0; row < num_rows; ++row) {
    if (rows.factor[row] == 0) continue;
    rows.factor[row] *= wide ? wide_grad[row * step] : grad[row * step];
  }
}

// The rows' unweighted losses, weighted and reduced as asked.
inline Tensor reduced_loss(const Tensor& logits, const std::vector<double>& loss, const Rows& rows,
                           int64_t reduction) {
  const int64_t num_rows = num_rows_of(logits);
  Tensor out =
      new_tensor(reduction == kNone ? std::vector<int64_t>{num_rows} : std::vector<int64_t>{},
                 loss_type(logits));
  void* const to = out.mutable_data_ptr();
  const bool wide = loss_type(logits) == ScalarType::Double;
  const auto put = [&](int64_t i, double value) {
    if (wide)
      static_cast<double*>(to)[i] = value;
    else
      static_cast<float*>(to)[i] = static_cast<float>(value);
  };
  // A row of weight 0 adds nothing, whatever its loss.
  const auto weighted = [&](int64_t row) {
    return rows.factor[row] == 0 ? 0 : rows.factor[row] * loss[row];
  };
  if (reduction == kNone) {
    for (int64_t row = 0; row < num_rows; ++row) put(row, weighted(row));
    return out;
  }
  double sum = 0;
  for (int64_t row = 0; row < num_rows; ++row) sum += weighted(row);
  const bool mean_of_nothing = reduction == kMean && rows.total == 0;
  put(0, mean_of_nothing ? std::numeric_limits<double>::quiet_NaN() : sum);
  return out;
}

// The rows that count. The others are not read; their gradient, if it is asked for, is set to 0.
inline std::vector<int64_t> counting_rows(const double* factor, void* grad, int64_t num_rows,
                                          int64_t row_bytes) {
  std::vector<int64_t> counting;
  counting.reserve(num_rows);
  for (int64_t row = 0; row < num_rows; ++row) {
    if (factor[row] != 0)
      counting.push_back(row);
    else if (grad)
      std::memset(static_cast<char*>(grad) + row * row_bytes, 0, row_bytes);
  }
  return counting;
}

// Stores past the caches do not pay in short rows, at whose ends they write parts of lines.
inline bool writes_past_caches(const void* result, int64_t num_rows, int64_t row_bytes) {
  return row_bytes >= (int64_t{16} << 10) && past_caches_pays(result, num_rows * row_bytes);
}

}  // namespace hace
