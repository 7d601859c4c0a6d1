// Reads what an array with a number per inner place has for the parents of neighbouring places.
//
// Neighbours are nearly always siblings or cousins, so that most vectors need one load, and no
// gather. The result is right for any order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "tree.h"
#include "vec.h"

namespace {

// The parents of neighbouring places as inner places.
template <typename Real>
struct ParentLinks {
  using Parents = Integers<Real>;
  using Parent = std::make_signed_t<Index<Real>>;
  static constexpr int kLanes = Lanes<Real>::kCount;

  const int32_t* parent;
  Parent num_classes;

  static ParentLinks of_columns(const hace::Tree& tree) {
    return {tree.parent, static_cast<Parent>(tree.num_classes)};
  }
  static ParentLinks of_inner(const hace::Tree& tree) {
    return {tree.parent + tree.num_classes, static_cast<Parent>(tree.num_classes)};
  }

  // Those of `count` places from `first` on; lanes beyond get the last one.
  template <typename Count>
  Parents at(int64_t first, Count count) const {
    Parents parents;
    if constexpr (std::is_same_v<Count, int64_t>) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        parents[lane] = parent[first + (lane < count ? lane : count - 1)];
    } else {
      parents = bit_cast<Parents>(load_indices<Real>(parent + first));
    }
    return parents - num_classes;
  }
};

// The numbers that kRows arrays, by inner place, have for these parents. Arrays may be read a
// vector beyond their last number.
template <typename Real, int kRows>
HACE_ALWAYS_INLINE void of_parents(const Real* const (&of_inner)[kRows], Integers<Real> parents,
                                   Vector<Real> (&values)[kRows]) {
  constexpr int kLanes = Lanes<Real>::kCount;
  const int64_t first = parents[0];
  const Integers<Real> from_first = parents - parents[0];
  if (!any(from_first != 0)) {
    for (int k = 0; k < kRows; ++k) values[k] = broadcast(of_inner[k][first]);
    return;
  }
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) {
    if (!any(bit_cast<Unsigned<Real>>(from_first) >= kLanes)) {
      for (int k = 0; k < kRows; ++k)
        values[k] = bit_cast<Vector<Real>>(_mm512_permutexvar_ps(
            bit_cast<__m512i>(from_first), bit_cast<__m512>(load(of_inner[k] + first))));
    } else {
      for (int k = 0; k < kRows; ++k)
        values[k] =
            bit_cast<Vector<Real>>(_mm512_i32gather_ps(bit_cast<__m512i>(parents), of_inner[k], 4));
    }
    return;
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) {
    if (!any(bit_cast<Unsigned<Real>>(from_first) >= kLanes)) {
      for (int k = 0; k < kRows; ++k)
        values[k] = bit_cast<Vector<Real>>(_mm256_permutevar8x32_ps(
            bit_cast<__m256>(load(of_inner[k] + first)), bit_cast<__m256i>(from_first)));
    } else {
      for (int k = 0; k < kRows; ++k)
        values[k] =
            bit_cast<Vector<Real>>(_mm256_i32gather_ps(of_inner[k], bit_cast<__m256i>(parents), 4));
    }
    return;
  }
#endif
  for (int k = 0; k < kRows; ++k)
    for (int lane = 0; lane < kLanes; ++lane) values[k][lane] = of_inner[k][parents[lane]];
}

// The same for one array.
template <typename Real>
HACE_ALWAYS_INLINE Vector<Real> of_parents(const Real* of_inner, Integers<Real> parents) {
  const Real* const only[] = {of_inner};
  Vector<Real> values[1];
  of_parents<Real, 1>(only, parents, values);
  return values[0];
}

// Adds to the number of every inner place those of all places above it. `numbers` may be read a
// vector beyond the last one.
template <typename Real>
inline void add_down(const hace::Tree& tree, Real* numbers) {
  using Links = ParentLinks<Real>;
  constexpr int kLanes = Links::kLanes;
  const int64_t size = tree.num_inner - 1;
  const Links links = Links::of_inner(tree);
  const auto step = [&](int64_t v, auto count) {
    const Integers<Real> parents = links.at(v, count);
    if (any(parents < static_cast<typename Links::Parent>(v + kLanes)))
      for (int64_t u = v + count - 1; u >= v; --u)
        numbers[u] += numbers[links.parent[u] - tree.num_classes];
    else
      store_first(numbers + v, load_first(numbers + v, count) + of_parents<Real>(numbers, parents),
                  count);
  };
  const int64_t whole = size / kLanes * kLanes;
  if (whole < size) step(whole, size - whole);
  for (int64_t v = whole - kLanes; v >= 0; v -= kLanes)
    step(v, std::integral_constant<int64_t, kLanes>{});
}

}  // namespace
