// The targets of `tree_log_loss` as the kernels see them: a TargetTable with its soft labels
// (hace_kernels/target_table.py says what the arrays mean) and the targets of the rows. Without
// torch.
#pragma once

#include <cstdint>

namespace hace {

// "By place" means P entries; T is the number of targets.
struct Targets {
  int64_t num_targets;  // T
  const int32_t* target_place;
  const double* share;
  const double* weight;  // what an index counts in the divisor of `mean`; null: 1
  const double* spread;  // null: none
  double row_spread;
  const double* keep;  // by place
  const double* unit;  // by place

  // Soft labels; null without them.
  const double* log_similarity;  // by place
  const double* is_class;        // by place

  // The mass at each place once 1 on every class has risen, if the table has it; else null.
  const float* kept_unit_of_table;        // by place
  const double* reaching_of_table;        // by place
  const int32_t* classes_below_of_table;  // by place

  // What a column keeps and hands on of 1 on it, if the table says that the targets are the columns
  // in their order; else null.
  const float* kept_of_column;
  const float* handed_of_column;
  // Whether share, keep and unit are the same for all columns. The two above have one entry then.
  bool columns_are_alike;

  // The rows: mass (rows, T) in the working type, or index (rows, K) with weights (null: 1).
  const void* mass;
  int64_t mass_stride;
  const int64_t* index;
  const double* index_weight;
  int64_t num_indices;  // K
  int64_t ignore_index;

  // Whether a row counts the weight of its one index; otherwise all rows count the same.
  bool single() const { return index && !index_weight; }
};

}  // namespace hace
