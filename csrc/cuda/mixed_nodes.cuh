// The mixed nodes of a DAG (SpanningTree) beside the sweeps over its tree.
#pragma once

#include "tree_sweeps.cuh"

namespace hace {

// Calls visit(i, lane) in a group of kGroup lanes for every i in first .. last - 1. Groups that
// have nothing to do get an i of last or more, so that all lanes of a warp take part.
constexpr int kGroup = 8;

template <typename Visit>
__device__ __forceinline__ void for_groups(int first, int last, Visit visit) {
  const int groups = static_cast<int>(blockDim.x) / kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  for (int base = first; base < last; base += groups)
    visit(base + group, static_cast<int>(threadIdx.x) % kGroup);
}

// Computes the log-sums of mixed nodes from those of places of the tree, at(place).
template <typename Real, typename At>
__device__ __forceinline__ void sum_mixed(const MixedNodes& mixed, At at, LogSum<Real>* of_mixed) {
  const int count = static_cast<int>(mixed.count);
  for_groups(0, count, [&](int x, int lane) {
    const int begin = x < count ? mixed.part_ptr[x] : 0;
    const int end = x < count ? mixed.part_ptr[x + 1] : 0;
    Real top = lowest<Real>();
    for (int i = begin + lane; i < end; i += kGroup) top = max(top, at(mixed.part[i]).max);
    top = group_max(top, kGroup);
    double all = 0;
    for (int i = begin + lane; i < end; i += kGroup) {
      const LogSum<Real> part = at(mixed.part[i]);
      all += part.sum * exp_of(part.max - top);
    }
    all = group_sum(all, kGroup);
    if (x < count && lane == 0) of_mixed[x] = {top, static_cast<Real>(all)};
  });
}

}  // namespace hace
