// Loops over values that lie one after the other: maxima, exponentials and their sums, gradients.
#pragma once

#include <cstdint>
#include <limits>

#include "exp.h"
#include "path_plan.h"
#include "vec.h"

namespace {

using hace::Piece;

template <typename Real, typename Source>
inline Real max_of(const Source* x, int64_t n) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr Real kLowest = -std::numeric_limits<Real>::infinity();
  Vector<Real> best[4];
  for (auto& b : best) b = broadcast(kLowest);
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) best[k] = max(best[k], load(x + i + k * kLanes));
  for (; i + kLanes <= n; i += kLanes) best[0] = max(best[0], load(x + i));
  if (i < n) best[1] = max(best[1], first_lanes<Real>(load_first(x + i, n - i), n - i, kLowest));
  return horizontal_max<Real>(max(max(best[0], best[1]), max(best[2], best[3])));
}

// What is prefetched while the processor is busy with exponentials: the logits after these, and the
// lines of the gradient, for which a store would otherwise wait. This saves a third of the time of
// rows that are not in the L2 cache. Null: nothing.
struct Soon {
  const char* read;
  const char* written;

  void fetch(int64_t first, int64_t last) const {
    for (int64_t at = first; at < last; at += 64) {
      if (read) __builtin_prefetch(read + at);
      if (written) __builtin_prefetch(written + at, 1);
    }
  }
};

template <typename Real>
struct Sums {
  Vector<Real> exps = {};
  Vector<Real> moments = {};
};

// Stores exp(x - shift) in e and adds it to the piece's sum. x and e may be the same.
template <bool kStore, bool kEntropy, typename Real, typename Source>
inline void exp_and_sum(const Source* x, int64_t n, Real shift, Real* e, Soon soon, Piece& piece) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr int64_t kSize = sizeof(Source);
  Sums<Real> sums[2];
  const auto add = [](Vector<Real> value, Vector<Real> gap, Sums<Real>& to) {
    to.exps += value;
    if constexpr (kEntropy) to.moments += value == 0 ? Vector<Real>{} : value * gap;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    soon.fetch(i * kSize, (i + 2 * kLanes) * kSize);
    for (int k = 0; k < 2; ++k) {
      const Vector<Real> gap = load(x + i + k * kLanes) - shift;
      const Vector<Real> value = exp_nonpositive(gap);
      add(value, gap, sums[k]);
      if constexpr (kStore) store(e + i + k * kLanes, value);
    }
  }
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    const Vector<Real> gap = load_first(x + i, left) - shift;
    const Vector<Real> value = first_lanes<Real>(exp_nonpositive(gap), left, 0);
    add(value, gap, sums[0]);
    if constexpr (kStore) store_first(e + i, value, left);
  }
  piece.sum = horizontal_sum<Real>(sums[0].exps + sums[1].exps);
  if constexpr (kEntropy) piece.moment = horizontal_sum<Real>(sums[0].moments + sums[1].moments);
}

// g = (factor + slope (z - max - middle)) e + offset.
template <typename Real, typename Stored>
inline void scale_by_logits(const Real* e, const Stored* z, const Piece& piece, Stored* g) {
  constexpr int kLanes = Lanes<Real>::kCount;
  const Real factor = static_cast<Real>(piece.factor), slope = static_cast<Real>(piece.slope);
  const Real middle = static_cast<Real>(piece.middle), offset = static_cast<Real>(piece.offset);
  const Real max = static_cast<Real>(piece.max);
  for (int64_t i = 0; i < piece.size; i += kLanes) {
    const int64_t left = piece.size - i < kLanes ? piece.size - i : kLanes;
    const Vector<Real> value = load_first(e + i, left);
    const Vector<Real> tilt = value * ((load_first(z + i, left) - max - middle) * slope);
    store_first(g + i, value * factor + (value == 0 ? Vector<Real>{} : tilt) + offset, left);
  }
}

// Exponentials that are in memory: at(i) is a vector of them, and first_at(i, n) its first n lanes.
template <typename Real>
struct Kept {
  const Real* e;

  Vector<Real> at(int64_t i) const { return load(e + i); }
  template <typename Count>
  Vector<Real> first_at(int64_t i, Count count) const {
    return load_first(e + i, count);
  }
};

// Exponentials that are computed again, to the same bits.
template <typename Real, typename Source>
struct Again {
  const Source* x;
  Real shift;
  int64_t ahead = 1024;  // how far what is prefetched lies

  Vector<Real> at(int64_t i) const {
    return first_at(i, std::integral_constant<int64_t, Lanes<Real>::kCount>{});
  }
  template <typename Count>
  Vector<Real> first_at(int64_t i, Count count) const {
    __builtin_prefetch(x + i + ahead);
    return first_lanes<Real>(exp_nonpositive(load_first(x + i, count) - shift), count, 0);
  }
};

// How many elements precede the first whole vector in memory from `to` on.
template <typename Real, typename Stored>
inline int64_t elements_before_vector(const Stored* to) {
  constexpr int64_t kBytes = Lanes<Real>::kCount * sizeof(Stored);
  const int64_t misaligned = reinterpret_cast<uintptr_t>(to) % kBytes;
  return misaligned ? (kBytes - misaligned) / int64_t{sizeof(Stored)} : 0;
}

// g = factor * e + offset.
template <typename Real, typename Exponentials, typename Stored>
inline void scale(Exponentials e, int64_t n, Real factor, Real offset, Stored* g,
                  bool past_caches) {
  constexpr int kLanes = Lanes<Real>::kCount;
  int64_t i = 0;
  if (past_caches) {
    const int64_t head = elements_before_vector<Real>(g);
    if (head + kLanes <= n) {
      if (head) store_first(g, e.at(0) * factor + offset, head);
      for (i = head; i + kLanes <= n; i += kLanes)
        store_past_caches(g + i, e.at(i) * factor + offset);
    }
  }
  for (; i + kLanes <= n; i += kLanes) store(g + i, e.at(i) * factor + offset);
  if (i < n) store_first(g + i, e.first_at(i, n - i) * factor + offset, n - i);
}

// Stores exp(x - shift) in e.
template <typename Real, typename Source>
inline void exp_of(const Source* x, int64_t n, Real shift, Real* e, Soon soon) {
  constexpr int kLanes = Lanes<Real>::kCount;
  constexpr int64_t kSize = sizeof(Source);
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    soon.fetch(i * kSize, (i + 2 * kLanes) * kSize);
    for (int k = 0; k < 2; ++k)
      store(e + i + k * kLanes, exp_nonpositive(load(x + i + k * kLanes) - shift));
  }
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    store_first(e + i, exp_nonpositive(load_first(x + i, left) - shift), left);
  }
}

template <typename Real>
inline Real sum_of(const Real* e, int64_t n) {
  constexpr int kLanes = Lanes<Real>::kCount;
  Vector<Real> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int k = 0; k < 4; ++k) sums[k] += load(e + i + k * kLanes);
  for (; i + kLanes <= n; i += kLanes) sums[0] += load(e + i);
  if (i < n) sums[1] += load_first(e + i, n - i);
  return horizontal_sum<Real>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace
