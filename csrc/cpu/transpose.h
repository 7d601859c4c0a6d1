// Loads rows of memory into the lanes of vectors, one row per lane, and stores them again.
#pragma once

#include <utility>

#include "vec.h"

namespace {

// a0 b0 a1 b1 ... from the first halves of a and b (kHalf 0), or from the second (kHalf 1).
template <int kHalf, typename Real, int... kLane>
inline Vector<Real> interleave(Vector<Real> a, Vector<Real> b,
                               std::integer_sequence<int, kLane...>) {
  constexpr int kCount = sizeof...(kLane);
  return __builtin_shufflevector(a, b, (kHalf * kCount / 2 + kLane / 2 + kLane % 2 * kCount)...);
}

// Interleaving line i with line i + half rotates the bits of (line, lane) by one place; log2(lanes)
// such rotations swap line and lane.
template <typename Real>
inline void transpose(Vector<Real>* lines) {
  constexpr int kCount = Lanes<Real>::kCount;
  constexpr std::make_integer_sequence<int, kCount> kLanes{};
  for (int turned = 1; turned < kCount; turned *= 2) {
    Vector<Real> next[kCount];
    for (int i = 0; i < kCount / 2; ++i) {
      next[2 * i] = interleave<0, Real>(lines[i], lines[i + kCount / 2], kLanes);
      next[2 * i + 1] = interleave<1, Real>(lines[i], lines[i + kCount / 2], kLanes);
    }
    for (int i = 0; i < kCount; ++i) lines[i] = next[i];
  }
}

// `count` neighbouring rows, at most one per lane.
template <int64_t kRows>
struct BlockRows {
  int64_t row[kRows];
  int count;

  BlockRows(int64_t first, int64_t num_rows) : count(static_cast<int>(num_rows)) {
    for (int64_t i = 0; i < num_rows; ++i) row[i] = first + i;
  }
};

// The memory of each lane's row. Lanes without a row read the first row.
template <typename Stored>
struct LaneRows {
  static constexpr int kCount = Lanes<work_t<Stored>>::kCount;
  const Stored* row[kCount];

  LaneRows(const void* data, int64_t stride, const int64_t* rows, int count) {
    for (int lane = 0; lane < kCount; ++lane)
      row[lane] = static_cast<const Stored*>(data) + rows[lane < count ? lane : 0] * stride;
  }
};

// Fetches what a later step along a row reads or, with kWrites, writes. (As many rows as a vector
// has lanes are more streams than processors follow by themselves.)
template <bool kWrites = false, typename Stored>
inline void fetch_ahead(const Stored* at) {
  __builtin_prefetch(at + 8 * LaneRows<Stored>::kCount, kWrites);
}

// Calls put(column, values) for every column of the rows; values have one lane per row.
template <typename Stored, typename Put>
inline void load_columns(const LaneRows<Stored>& rows, int64_t columns, Put put) {
  using Real = work_t<Stored>;
  constexpr int kCount = LaneRows<Stored>::kCount;
  Vector<Real> lines[kCount];
  int64_t column = 0;
  for (; column + kCount <= columns; column += kCount) {
    for (int lane = 0; lane < kCount; ++lane) {
      fetch_ahead(rows.row[lane] + column);
      lines[lane] = load(rows.row[lane] + column);
    }
    transpose<Real>(lines);
    for (int k = 0; k < kCount; ++k) put(column + k, lines[k]);
  }
  const int left = static_cast<int>(columns - column);
  if (left == 0) return;
  for (int lane = 0; lane < kCount; ++lane) lines[lane] = load_first(rows.row[lane] + column, left);
  transpose<Real>(lines);
  for (int k = 0; k < left; ++k) put(column + k, lines[k]);
}

// Writes get(column), which has one lane per row, to every column of the first `count` rows.
template <typename Stored, typename Get>
inline void store_columns(void* data, int64_t columns, const int64_t* rows, int count,
                          bool past_caches, Get get) {
  using Real = work_t<Stored>;
  constexpr int kCount = Lanes<Real>::kCount;
  Stored* row[kCount];
  for (int lane = 0; lane < count; ++lane) {
    row[lane] = static_cast<Stored*>(data) + rows[lane] * columns;
    // Stores past the caches are fast only for whole lines.
    if (reinterpret_cast<uintptr_t>(row[lane]) % (kCount * sizeof(Stored))) past_caches = false;
  }
  Vector<Real> lines[kCount];
  int64_t column = 0;
  for (; column + kCount <= columns; column += kCount) {
    for (int k = 0; k < kCount; ++k) lines[k] = get(column + k);
    transpose<Real>(lines);
    if (past_caches)
      for (int lane = 0; lane < count; ++lane) store_past_caches(row[lane] + column, lines[lane]);
    else
      for (int lane = 0; lane < count; ++lane) {
        fetch_ahead<true>(row[lane] + column);
        store(row[lane] + column, lines[lane]);
      }
  }
  const int left = static_cast<int>(columns - column);
  for (int k = 0; k < left; ++k) lines[k] = get(column + k);
  if (left) {
    for (int k = left; k < kCount; ++k) lines[k] = Vector<Real>{};
    transpose<Real>(lines);
    for (int lane = 0; lane < count; ++lane) store_first(row[lane] + column, lines[lane], left);
  }
  if (past_caches) fence_stores();
}

}  // namespace
