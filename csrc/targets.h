// What `tree_log_loss` puts where, as the kernels see it: a TargetTable and soft labels (of
// hace_kernels/target_table.py, which says what the arrays hold) and the rows' targets. No torch
// here.
#pragma once

#include <cstdint>

namespace hace {

// "By place" is P entries, T is the number of targets.
struct Targets {
  int64_t num_targets;  // T
  const int32_t* target_place;
  const double* share;
  const double* weight;  // what an index counts for where `mean` divides; null: 1
  const double* spread;  // null: none
  double row_spread;
  const double* keep;  // by place
  const double* unit;  // by place

  // Soft labels; null without them.
  const double* log_similarity;  // by place
  const double* is_class;        // by place

  // What 1 on every class comes to once it has risen, where the table says it; else null.
  const float* kept_unit_of_table;        // by place
  const double* reaching_of_table;        // by place
  const int32_t* classes_below_of_table;  // by place

  // The rows: mass (rows, T) in the type worked in, or index (rows, K) with weights (null: 1).
  const void* mass;
  int64_t mass_stride;
  const int64_t* index;
  const double* index_weight;
  int64_t num_indices;  // K
  int64_t ignore_index;

  // Rows of one index count as their target says, all others alike.
  bool single() const { return index && !index_weight; }
};

}  // namespace hace
