// Paths from nodes to their roots in CSR form, and their compaction into a path table.
#pragma once

#include <cstdint>
#include <vector>

namespace hace {

struct Paths {
  std::vector<int64_t> ptr;
  std::vector<int32_t> node;
};

// The path of each of `nodes`, from the node itself upwards, cut after `max_entries` nodes
// (negative: not cut).
// Throws std::invalid_argument when `depth` does not belong to `parents`.
Paths find_paths(const int64_t* parents, const int32_t* depth, const int64_t* nodes,
                 int64_t num_paths, int64_t max_entries);

struct PathTable {
  std::vector<int64_t> ptr;
  std::vector<int32_t> start;
  std::vector<int32_t> stop;
  std::vector<double> weight;
};

// hace_kernels.layout.compact_paths says what is dropped, and why.
PathTable compact_paths(const int64_t* ptr, int64_t num_paths, const int32_t* start,
                        const int32_t* stop, const double* weight, int64_t num_classes,
                        bool keep_full);

}  // namespace hace
