// The path of a target: nested intervals of class positions, and how they cut the row (see the
// picture in docs/design.md).
//
// The 2 K ends of K intervals cut a row into 2 K + 1 *segments*. Ring r, which is what interval r
// adds to the one inside it (ring K: what is outside of all), is segments K - r and K + r.
#pragma once

#include "reduce.cuh"

namespace hace {

struct Path {
  const int32_t* start;  // from the innermost interval outwards, so never rising
  const int32_t* stop;   // never falling
  const double* weight;
  int num_intervals;
  int columns;
  int first;  // the class position of the first column; it may be above 0 in a tile of columns

  // Segment s lies between boundaries s - 1 and s. These are all starts, the outermost first, and
  // then all stops.
  __device__ int boundary(int i) const {
    if (i < 0) return 0;
    if (i >= 2 * num_intervals) return columns;
    const int end = i < num_intervals ? start[num_intervals - 1 - i] : stop[i - num_intervals];
    return min(max(end - first, 0), columns);
  }

  __device__ int segment_begin(int segment) const { return boundary(segment - 1); }
  __device__ int segment_end(int segment) const { return boundary(segment); }

  // The segment that a position is in: the number of boundaries at or before it. Whole warps call
  // this; each lane looks at one boundary, after a bisection where there are more of them.
  __device__ int segment_of(int position) const {
    int low = 0, high = 2 * num_intervals;
    while (high - low > kWarp) {
      const int middle = (low + high) / 2;
      if (boundary(middle) <= position)
        low = middle + 1;
      else
        high = middle;
    }
    const int mine = low + lane_index();
    const bool before = mine < high && boundary(mine) <= position;
    return low + __popc(__ballot_sync(kAllLanes, before));
  }

  __device__ int ring_of(int segment) const { return abs(segment - num_intervals); }
};

}  // namespace hace
