#include "paths.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace hace {
namespace {

constexpr double kWeightCut = 0x1p-60;  // of the sum of a path's weights

}  // namespace

Paths find_paths(const int64_t* parents, const int32_t* depth, const int64_t* nodes,
                 int64_t num_paths, int64_t max_entries) {
  Paths paths;
  paths.ptr.resize(num_paths + 1);
  for (int64_t path = 0; path < num_paths; ++path) {
    int64_t length = static_cast<int64_t>(depth[nodes[path]]) + 1;
    if (max_entries >= 0) length = std::min(length, max_entries);
    paths.ptr[path + 1] = paths.ptr[path] + length;
  }
  paths.node.resize(paths.ptr.back());
  for (int64_t path = 0; path < num_paths; ++path) {
    int64_t node = nodes[path];
    for (int64_t i = paths.ptr[path]; i < paths.ptr[path + 1]; ++i) {
      if (node < 0) throw std::invalid_argument("depth does not belong to parents");
      paths.node[i] = static_cast<int32_t>(node);
      node = parents[node];
    }
  }
  return paths;
}

PathTable compact_paths(const int64_t* ptr, int64_t num_paths, const int32_t* start,
                        const int32_t* stop, const double* weight, int64_t num_classes,
                        bool keep_full) {
  PathTable table;
  table.ptr.resize(num_paths + 1);
  auto append = [&](int32_t first, int32_t last, double w) {
    table.start.push_back(first);
    table.stop.push_back(last);
    table.weight.push_back(w);
  };
  for (int64_t path = 0; path < num_paths; ++path) {
    const int64_t begin = ptr[path], end = ptr[path + 1];
    const size_t first = table.start.size();
    if (begin < end && start[begin] == stop[begin]) {
      append(start[begin], stop[begin], 1.0);
    } else {
      double total = 0.0;
      for (int64_t i = begin; i < end;) {
        const int64_t group = i;
        double sum = 0.0;
        for (; i < end && start[i] == start[group] && stop[i] == stop[group]; ++i) sum += weight[i];
        const bool full = start[group] == 0 && stop[group] == num_classes;
        if (sum == 0.0 || (full && !keep_full)) continue;
        append(start[group], stop[group], sum);
        total += std::abs(sum);
      }
      // Which weights are too small depends on the sum of all, so a second pass drops those.
      size_t kept = first;
      for (size_t i = first; i < table.start.size(); ++i) {
        if (!(std::abs(table.weight[i]) >= kWeightCut * total)) continue;
        table.start[kept] = table.start[i];
        table.stop[kept] = table.stop[i];
        table.weight[kept++] = table.weight[i];
      }
      table.start.resize(kept);
      table.stop.resize(kept);
      table.weight.resize(kept);
    }
    table.ptr[path + 1] = static_cast<int64_t>(table.start.size());
  }
  return table;
}

}  // namespace hace
