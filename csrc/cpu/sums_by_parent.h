// Adds values of neighbouring places to sums of their parents.
//
// Neighbours are nearly always siblings, because classes are numbered in depth-first order or in an
// order close to it. Vectors whose lanes all have the same parent are added up lane by lane. In all
// others, log2(lanes) steps leave the sum of neighbouring siblings in the last one's lane. The
// result is right for any order.
#pragma once

#include <cstdint>
#include <utility>

#include "tree_sweeps.h"
#include "vec.h"

namespace {

// x moved up by kBy lanes; the lanes below are those of `in`.
template <int kBy, typename V, int... kLane>
inline V moved_up(V x, V in, std::integer_sequence<int, kLane...>) {
  constexpr int kCount = sizeof...(kLane);
  return __builtin_shufflevector(in, x, (kLane < kBy ? kLane : kCount + kLane - kBy)...);
}

// Computes kSums sums per parent at once; each is added to an array with a number per inner place.
template <typename Real, int kSums>
class SumsByParent {
  using Line = Vector<Real>;
  static constexpr int kCount = Lanes<Real>::kCount;

 public:
  explicit SumsByParent(double* const* sums) {
    for (int k = 0; k < kSums; ++k) sums_[k] = sums[k];
  }

  // Adds values with these parents, which are inner places in range.
  HACE_ALWAYS_INLINE void add(Integers<Real> parents, const Line (&values)[kSums]) {
    if (!any(parents != parents[0])) {
      if (parents[0] != parent_ || length_ == kRun) {
        end_run();
        parent_ = parents[0];
      }
      for (int k = 0; k < kSums; ++k) run_[k] += values[k];
      ++length_;
      return;
    }
    end_run();
    const Same same = same_as_below(parents);
    Line scanned[kSums];
    for (int k = 0; k < kSums; ++k) scanned[k] = values[k];
    add_neighbours<1>(scanned, same);
    // The last lane of some siblings is the one before the next ones' first.
    const uint32_t first = ~bits_of_same(same);
    list(parents, scanned, (first >> 1 | 1u << (kCount - 1)) & kAll);
  }

  // Completes the sums of inner places below `limit` with all values added so far.
  HACE_ALWAYS_INLINE void end_runs_below(int64_t limit) {
    if (parent_ < limit) end_run();
    add_listed();
  }

  // Adds what has not been added to a parent yet.
  HACE_ALWAYS_INLINE void end() {
    end_run();
    add_listed();
  }

 private:
  static constexpr std::make_integer_sequence<int, kCount> kLanes{};
  static constexpr uint32_t kAll = (uint64_t{1} << kCount) - 1;
  static constexpr int kMostListed = 32 * kCount;
  using Parent = typename std::remove_reference<decltype(Integers<Real>{}[0])>::type;

  double* sums_[kSums];
  Line run_[kSums] = {};
  int64_t parent_ = -1;
  int64_t length_ = 0;

  // Sums that are still to be added to those of their parents. A list of them lets the vectors
  // that follow go on, where additions in memory would wait for each other.
  int num_listed_ = 0;
  Parent listed_parent_[kMostListed];
  Real listed_[kSums][kMostListed];

  HACE_ALWAYS_INLINE void list(Integers<Real> parents, const Line (&values)[kSums], uint32_t last) {
#if defined(__AVX512F__)
    const int count = __builtin_popcount(last);
    if constexpr (kCount == 16) {
      _mm512_storeu_si512(listed_parent_ + num_listed_,
                          _mm512_maskz_compress_epi32(last, bit_cast<__m512i>(parents)));
      for (int k = 0; k < kSums; ++k)
        _mm512_storeu_ps(listed_[k] + num_listed_,
                         _mm512_maskz_compress_ps(last, bit_cast<__m512>(values[k])));
    } else {
      _mm512_storeu_si512(listed_parent_ + num_listed_,
                          _mm512_maskz_compress_epi64(last, bit_cast<__m512i>(parents)));
      for (int k = 0; k < kSums; ++k)
        _mm512_storeu_pd(listed_[k] + num_listed_,
                         _mm512_maskz_compress_pd(last, bit_cast<__m512d>(values[k])));
    }
    num_listed_ += count;
#else
    Real lanes[kSums][kCount];
    for (int k = 0; k < kSums; ++k) store(lanes[k], values[k]);
    Parent parent[kCount];
    std::memcpy(parent, &parents, sizeof(parents));
    for (; last; last &= last - 1) {
      const int lane = __builtin_ctz(last);
      listed_parent_[num_listed_] = parent[lane];
      for (int k = 0; k < kSums; ++k) listed_[k][num_listed_] = lanes[k][lane];
      ++num_listed_;
    }
#endif
    if (num_listed_ > kMostListed - kCount) add_listed();
  }

  HACE_ALWAYS_INLINE void add_listed() {
    for (int i = 0; i < num_listed_; ++i)
      for (int k = 0; k < kSums; ++k) sums_[k][listed_parent_[i]] += listed_[k][i];
    num_listed_ = 0;
  }

  HACE_ALWAYS_INLINE void end_run() {
    if (length_ == 0) return;
    for (int k = 0; k < kSums; ++k) {
      sums_[k][parent_] += horizontal_sum<Real>(run_[k]);
      run_[k] = Line{};
    }
    length_ = 0;
  }

  // The lanes in which a comparison with lanes below is true, as bits.
#if defined(__AVX512F__)
  using Same = uint32_t;

  static Same same_as_below(Integers<Real> parents) {
    const __m512i here = bit_cast<__m512i>(parents), none = _mm512_set1_epi32(-1);
    if constexpr (kCount == 16)
      return _mm512_cmpeq_epi32_mask(here, _mm512_alignr_epi32(here, none, 15));
    else
      return _mm512_cmpeq_epi64_mask(here, _mm512_alignr_epi64(here, none, 7));
  }
  static uint32_t bits_of_same(Same same) { return same; }

  template <int kBy>
  static Same and_below(Same same) {
    return same & same << kBy;
  }
  template <int kBy>
  static Line from_below(Line x, Same same) {
    const __m512i here = bit_cast<__m512i>(x), none = _mm512_setzero_si512();
    if constexpr (kCount == 16)
      return bit_cast<Line>(_mm512_maskz_alignr_epi32(same, here, none, 16 - kBy));
    else
      return bit_cast<Line>(_mm512_maskz_alignr_epi64(same, here, none, 8 - kBy));
  }
#else
  using Same = Integers<Real>;

  static Same same_as_below(Integers<Real> parents) {
    return parents == moved_up<1>(parents, ~Integers<Real>{}, kLanes);
  }
  static uint32_t bits_of_same(Same same) { return bits_of<Real>(same); }

  template <int kBy>
  static Same and_below(Same same) {
    return same & moved_up<kBy>(same, Same{}, kLanes);
  }
  template <int kBy>
  static Line from_below(Line x, Same same) {
    return bit_cast<Line>(bit_cast<Same>(moved_up<kBy>(x, Line{}, kLanes)) & same);
  }
#endif

  // `same`: whether a lane and the kBy below it are siblings.
  template <int kBy>
  static void add_neighbours(Line (&values)[kSums], Same same) {
    if constexpr (kBy < kCount) {
      for (int k = 0; k < kSums; ++k) values[k] += from_below<kBy>(values[k], same);
      add_neighbours<2 * kBy>(values, and_below<kBy>(same));
    }
  }
};

}  // namespace
