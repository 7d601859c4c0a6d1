// Strips: the parts of a row that a warp holds in its registers at once.
//
// A strip is 512 neighbouring class positions, 16 per lane, in 16-byte vectors. Lane l's q-th
// vector is the strip's (32 q + l)-th, so that each load or store of the warp is 512 contiguous
// bytes, and several are in flight together. Strips begin at addresses that are multiples of 16
// bytes: the first one may begin up to a vector before the row, and positions outside of the row
// are not touched.
#pragma once

#include "element.cuh"
#include "reduce.cuh"

namespace hace {

constexpr int kPerLane = 16;
constexpr int kStrip = kWarp * kPerLane;

// The number of elements between the last multiple of 16 bytes and the beginning of a row.
template <typename Stored>
__device__ __forceinline__ int misalignment(const Stored* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) % kVectorBytes / sizeof(Stored));
}

// The most strips that a row may have, wherever it lies in memory.
template <typename Stored>
__host__ __device__ constexpr int64_t num_strips(int64_t columns) {
  return (columns + kVector<Stored> - 1 + kStrip - 1) / kStrip;
}

template <typename Stored>
struct StripRow {
  const Stored* logits;
  const int32_t* order;   // position -> column; null: positions are columns
  const Stored* gathers;  // the row, or a copy in shared memory, for columns in another order
  int columns;
  int shift;  // positions before the row in the first strip

  __device__ StripRow(const Stored* logits, const int32_t* order, const Stored* gathers,
                      int columns)
      : logits(logits),
        order(order),
        gathers(gathers),
        columns(columns),
        shift(order ? 0 : misalignment(logits)) {}

  __device__ int num_strips() const { return (columns + shift + kStrip - 1) / kStrip; }
  __device__ int strip_of(int position) const { return (position + shift) / kStrip; }
  __device__ int begin(int strip) const { return max(0, strip * kStrip - shift); }
  __device__ int end(int strip) const { return min(columns, (strip + 1) * kStrip - shift); }

  // The position of this lane's i-th element, which may lie outside of the row.
  __device__ int position(int strip, int i) const {
    constexpr int kV = kVector<Stored>;
    return strip * kStrip - shift + i / kV * (kWarp * kV) + lane_index() * kV + i % kV;
  }

  // Whether that position is in [begin, end).
  __device__ bool is_in(int strip, int i, int begin, int end) const {
    return static_cast<unsigned>(position(strip, i) - begin) < static_cast<unsigned>(end - begin);
  }

  // Loads a strip; positions outside of the row get -inf.
  __device__ void load(int strip, work_t<Stored> (&x)[kPerLane]) const {
    constexpr int kV = kVector<Stored>;
#pragma unroll
    for (int i = 0; i < kPerLane; i += kV) {
      const int at = position(strip, i);
      if (!order && at >= 0 && at + kV <= columns) {
        const auto vector = *reinterpret_cast<const Vector<Stored>*>(logits + at);
#pragma unroll
        for (int v = 0; v < kV; ++v) x[i + v] = to_work(vector.element[v]);
      } else {
#pragma unroll
        for (int v = 0; v < kV; ++v)
          x[i + v] = at + v >= 0 && at + v < columns
                         ? to_work(order ? gathers[order[at + v]] : logits[at + v])
                         : -infinity<work_t<Stored>>();
      }
    }
  }

  // `out` is a row of the same number of columns, written in vectors if it is aligned as the logits
  // are. `scatters` is the same row, or the array that is copied there.
  __device__ void store(int strip, const work_t<Stored> (&x)[kPerLane], Stored* out,
                        Stored* scatters) const {
    constexpr int kV = kVector<Stored>;
    const bool alike = !order && misalignment(out) == shift;
#pragma unroll
    for (int i = 0; i < kPerLane; i += kV) {
      const int at = position(strip, i);
      if (alike && at >= 0 && at + kV <= columns) {
        Vector<Stored> vector;
#pragma unroll
        for (int v = 0; v < kV; ++v) vector.element[v] = to_stored<Stored>(x[i + v]);
        *reinterpret_cast<Vector<Stored>*>(out + at) = vector;
      } else {
#pragma unroll
        for (int v = 0; v < kV; ++v) {
          if (at + v < 0 || at + v >= columns) continue;
          (order ? scatters[order[at + v]] : out[at + v]) = to_stored<Stored>(x[i + v]);
        }
      }
    }
  }
};

}  // namespace hace
