// The arguments of `path_log_loss`, with the checks that do not read their values.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "loss_ops.h"
#include "ring_words.h"
#include "tensors.h"

namespace hace {

// The arguments with an entry per row, in the order of the schema.
struct PathLogLossRows {
  Tensor logits;
  Tensor target;

  // Members are initialised in the order of their declaration.
  explicit PathLogLossRows(Arguments& arguments)
      : logits(arguments.next<Tensor>()), target(arguments.next<Tensor>()) {}
};

// The others.
struct PathLogLossRest {
  std::vector<Tensor> table;  // the tensors of a PathTable: hace_kernels/path_table.py
  int64_t max_entries;
  std::optional<Tensor> target_weight;
  double entropy;
  int64_t ignore_index;
  int64_t reduction;
  double eps;

  explicit PathLogLossRest(Arguments& arguments)
      : table(arguments.next<std::vector<Tensor>>()),
        max_entries(arguments.next<int64_t>()),
        target_weight(arguments.next<std::optional<Tensor>>()),
        entropy(arguments.next<double>()),
        ignore_index(arguments.next<int64_t>()),
        reduction(arguments.next<int64_t>()),
        eps(arguments.next<double>()) {}
};

using PathLogLossCall = LossCall<PathLogLossRows, PathLogLossRest>;

// A path table as the kernels see it.
struct PathArrays {
  int64_t num_targets;  // T
  int64_t num_entries;  // E
  const int64_t* ptr;
  const int32_t* start;
  const int32_t* stop;
  const double* weight;
  const int32_t* order;     // position -> column; null: positions are columns
  const int32_t* position;  // column -> position; null likewise
  RingWords rings;
};

inline RingWords bind_ring_words(const Tensor* tensors, int64_t num_paths_and_entries) {
  RingWords rings = {};
  rings.num_rings = tensors[1].numel() - 1;
  rings.num_words = tensors[2].numel();
  rings.ring = int32_vector("table.rings.ring", tensors[0], num_paths_and_entries);
  rings.ptr = int32_vector("table.rings.ptr", tensors[1]);
  rings.words = reinterpret_cast<const uint32_t*>(
      int32_vector("table.rings.words", tensors[2], rings.num_words));
  return rings;
}

inline PathArrays bind_path_table(const std::vector<Tensor>& table, int64_t num_columns) {
  const size_t size = table.size();
  const bool is_shuffled = size == 6 || size == 9, lists_rings = size == 7 || size == 9;
  STD_TORCH_CHECK(
      size == 4 || is_shuffled || lists_rings,
      "a path table is the tensors ptr, start, stop and weight, then order and position "
      "where the columns are in another order, then ring, ptr and words where the "
      "rings' columns are listed; got ",
      size, " tensors");
  const Tensor& ptr = table[0];
  STD_TORCH_CHECK(ptr.scalar_type() == ScalarType::Long && ptr.dim() == 1 && ptr.is_contiguous() &&
                      ptr.numel() > 0,
                  "table.ptr must be a contiguous int64 vector of at least one entry");
  PathArrays paths = {};
  paths.num_targets = ptr.numel() - 1;
  paths.num_entries = table[1].numel();
  paths.ptr = ptr.const_data_ptr<int64_t>();
  paths.start = int32_vector("table.start", table[1], paths.num_entries);
  paths.stop = int32_vector("table.stop", table[2], paths.num_entries);
  paths.weight = float64_vector("table.weight", table[3], paths.num_entries);
  if (is_shuffled) {
    paths.order = int32_vector("table.order", table[4], num_columns);
    paths.position = int32_vector("table.position", table[5], num_columns);
  }
  if (lists_rings)
    paths.rings = bind_ring_words(&table[size - 3], paths.num_targets + paths.num_entries);
  return paths;
}

// Throws unless all tensors have the shapes and types that the kernels assume.
inline PathArrays check(const PathLogLossCall& call) {
  const Tensor& logits = call.logits;
  check_rows_or_pixels("path_log_loss", logits);
  STD_TORCH_CHECK(
      call.target.scalar_type() == ScalarType::Long && call.target.dim() == 1 &&
          call.target.size(0) == num_rows_of(logits) && call.target.is_contiguous(),
      "path_log_loss: target must be a contiguous int64 vector with one entry per row of logits");
  const PathArrays paths = bind_path_table(call.table, logits.size(1));
  if (call.target_weight)
    float64_vector("path_log_loss: target_weight", *call.target_weight, paths.num_targets);
  STD_TORCH_CHECK(call.max_entries >= 0, "path_log_loss: max_entries must not be negative, got ",
                  call.max_entries);
  check_reduction("path_log_loss", call.reduction);
  return paths;
}

}  // namespace hace
