// One SIMD vector type for every instruction set, built on the compilers' vector extensions.
//
// Files that include this are compiled once per instruction set (see isa.h), so everything here has
// internal linkage. Otherwise the linker might keep, say, the AVX-512 copy of an inline function
// for all of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "scalar_types.h"

// For functions in inner loops whose state would otherwise be in memory and not in registers.
#define HACE_ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Lanes of real numbers, and the integers of the same width that index and mask them.
template <typename Real>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int kCount = kVectorBytes / 4;
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Unsigned __attribute__((vector_size(kVectorBytes)));
  using Index = uint32_t;
};

template <>
struct Lanes<double> {
  static constexpr int kCount = kVectorBytes / 8;
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Integers __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Unsigned __attribute__((vector_size(kVectorBytes)));
  using Index = uint64_t;
};

template <typename Real>
using Vector = typename Lanes<Real>::Vector;
template <typename Real>
using Integers = typename Lanes<Real>::Integers;
template <typename Real>
using Unsigned = typename Lanes<Real>::Unsigned;
template <typename Real>
using Index = typename Lanes<Real>::Index;

typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));

template <typename To, typename From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename Real>
inline Vector<Real> broadcast(Real value) {
  return value - Vector<Real>{};
}

// The second operand if either is NaN. (x86's max instructions do just this; compilers turn the
// comparison into more than that.)
inline Vector<float> max(Vector<float> a, Vector<float> b) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_max_ps(bit_cast<__m512>(a), bit_cast<__m512>(b)));
#elif defined(__AVX2__)
  return bit_cast<Vector<float>>(_mm256_max_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}
inline Vector<double> max(Vector<double> a, Vector<double> b) { return a > b ? a : b; }

template <typename Real>
inline Integers<Real> lane_indices() {
  Integers<Real> indices;
  for (int lane = 0; lane < Lanes<Real>::kCount; ++lane) indices[lane] = lane;
  return indices;
}

// `value` in the first `count` lanes, and `other` in the rest.
template <typename Real>
inline Vector<Real> first_lanes(Vector<Real> value, int64_t count, Real other) {
  using Index = typename std::remove_reference<decltype(Integers<Real>{}[0])>::type;
  return lane_indices<Real>() < static_cast<Index>(count) ? value : broadcast<Real>(other);
}

// The first operand in the lanes whose bits are set; lane 0 has the lowest bit.
template <typename Real>
inline Vector<Real> chosen_lanes(uint32_t bits, Vector<Real> chosen, Vector<Real> other) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4)
    return bit_cast<Vector<Real>>(_mm512_mask_mov_ps(
        bit_cast<__m512>(other), static_cast<__mmask16>(bits), bit_cast<__m512>(chosen)));
  else
    return bit_cast<Vector<Real>>(_mm512_mask_mov_pd(
        bit_cast<__m512d>(other), static_cast<__mmask8>(bits), bit_cast<__m512d>(chosen)));
#else
  const Unsigned<Real> bit = (Unsigned<Real>{} + 1)
                             << bit_cast<Unsigned<Real>>(lane_indices<Real>());
  return ((Unsigned<Real>{} + static_cast<Index<Real>>(bits)) & bit) != 0 ? chosen : other;
#endif
}

// Whether a comparison is true in some lane.
template <typename Mask>
inline bool any(Mask mask) {
#if defined(__AVX512F__)
  const __m512i bits = bit_cast<__m512i>(mask);
  return _mm512_test_epi64_mask(bits, bits) != 0;
#elif defined(__AVX2__)
  const __m256i bits = bit_cast<__m256i>(mask);
  return !_mm256_testz_si256(bits, bits);
#else
  uint64_t words[sizeof(mask) / 8];
  std::memcpy(words, &mask, sizeof(mask));
  uint64_t found = 0;
  for (const uint64_t word : words) found |= word;
  return found != 0;
#endif
}

typedef float HalfVector __attribute__((vector_size(kVectorBytes / 2)));

template <int... kLane>
inline Vector<float> joined(HalfVector low, HalfVector high, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(low, high, kLane...);
}

// Two vectors as one. It is joined in registers: through memory, the load would have to wait for
// both stores.
inline Vector<float> narrowed(Vector<double> low, Vector<double> high) {
  return joined(__builtin_convertvector(low, HalfVector), __builtin_convertvector(high, HalfVector),
                std::make_integer_sequence<int, Lanes<float>::kCount>{});
}

// A bit for each lane in which a comparison held.
template <typename Real>
inline uint32_t bits_of(Integers<Real> mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm512_movepi32_mask(bit_cast<__m512i>(mask));
  return _mm512_movepi64_mask(bit_cast<__m512i>(mask));
#elif defined(__AVX2__)
  if constexpr (sizeof(Real) == 4) return _mm256_movemask_ps(bit_cast<__m256>(mask));
  return _mm256_movemask_pd(bit_cast<__m256d>(mask));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < Lanes<Real>::kCount; ++lane) bits |= (mask[lane] & 1u) << lane;
  return bits;
#endif
}

template <typename Real>
inline Real horizontal_sum(Vector<Real> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm512_reduce_add_ps(bit_cast<__m512>(v));
#endif
  Real lanes[Lanes<Real>::kCount];
  std::memcpy(lanes, &v, sizeof(v));
  for (int width = Lanes<Real>::kCount / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

// May ignore NaN lanes: the sum of exponentials that follows a maximum is NaN for them.
template <typename Real>
inline Real horizontal_max(Vector<Real> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Real) == 4) return _mm512_reduce_max_ps(bit_cast<__m512>(v));
#endif
  Real lanes[Lanes<Real>::kCount];
  std::memcpy(lanes, &v, sizeof(v));
  for (int width = Lanes<Real>::kCount / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane)
      lanes[lane] = lanes[lane] > lanes[lane + width] ? lanes[lane] : lanes[lane + width];
  return lanes[0];
}

// ---- loads and stores, which convert between the stored type and the working type ----

template <typename Real>
inline Vector<Real> load(const Real* from) {
  Vector<Real> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <typename Real>
inline void store(Real* to, Vector<Real> v) {
  std::memcpy(to, &v, sizeof(v));
}

inline Vector<float> widen(Halves halves, const BFloat16*) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(bit_cast<__m256i>(halves)), 16));
#endif
  return bit_cast<Vector<float>>(__builtin_convertvector(halves, Words) << 16);
}

// Rounds to nearest even; a NaN stays NaN instead of being rounded up to infinity.
inline Halves narrow(Vector<float> v, const BFloat16*) {
  Words bits = bit_cast<Words>(v);
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = v == v ? rounded : Words{} + 0x7fc0;
#if defined(__AVX512F__)
  return bit_cast<Halves>(_mm512_cvtepi32_epi16(bit_cast<__m512i>(rounded)));
#endif
  return __builtin_convertvector(rounded, Halves);
}

inline Vector<float> widen(Halves halves, const Float16*) {
#if defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_cvtph_ps(bit_cast<__m256i>(halves)));
#elif defined(__F16C__)
  return bit_cast<Vector<float>>(_mm256_cvtph_ps(bit_cast<__m128i>(halves)));
#else
  Vector<float> v;
  for (int lane = 0; lane < Lanes<float>::kCount; ++lane) v[lane] = half_to_float(halves[lane]);
  return v;
#endif
}

inline Halves narrow(Vector<float> v, const Float16*) {
#if defined(__AVX512F__)
  return bit_cast<Halves>(
      _mm512_cvtps_ph(bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  return bit_cast<Halves>(
      _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  Halves halves;
  for (int lane = 0; lane < Lanes<float>::kCount; ++lane) halves[lane] = float_to_half(v[lane]);
  return halves;
#endif
}

template <typename Half>
inline Vector<float> load_half(const Half* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  return widen(halves, from);
}

inline Vector<float> load(const BFloat16* from) { return load_half(from); }
inline Vector<float> load(const Float16* from) { return load_half(from); }

inline void store(BFloat16* to, Vector<float> v) {
  Halves halves = narrow(v, to);
  std::memcpy(to, &halves, sizeof(halves));
}
inline void store(Float16* to, Vector<float> v) {
  Halves halves = narrow(v, to);
  std::memcpy(to, &halves, sizeof(halves));
}

// Loads the first `count` elements; the lanes after them are 0, and their memory is not touched.
template <typename Stored>
inline auto load_first(const Stored* from, int64_t count) -> decltype(load(from)) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Stored) == 4)
    return bit_cast<Vector<float>>(_mm512_maskz_loadu_ps((1u << count) - 1, from));
#endif
  constexpr int kLanes = sizeof(load(from)) / sizeof(work_t<Stored>);
  Stored elements[kLanes] = {};
  std::memcpy(elements, from, count * sizeof(Stored));
  return load(elements);
}

// Loads a whole vector, if that is known at compile time.
template <typename Stored, int64_t kCount>
inline auto load_first(const Stored* from, std::integral_constant<int64_t, kCount>) {
  static_assert(kCount == sizeof(load(from)) / sizeof(work_t<Stored>), "all lanes");
  return load(from);
}
template <typename Stored, typename V, int64_t kCount>
inline void store_first(Stored* to, V v, std::integral_constant<int64_t, kCount>) {
  store(to, v);
}
template <typename Real, int64_t kCount>
inline Vector<Real> first_lanes(Vector<Real> value, std::integral_constant<int64_t, kCount>, Real) {
  return value;
}

template <typename Stored, typename V>
inline void store_first(Stored* to, V v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Stored) == 4)
    return _mm512_mask_storeu_ps(to, (1u << count) - 1, bit_cast<__m512>(v));
#endif
  constexpr int kLanes = sizeof(V) / sizeof(work_t<Stored>);
  Stored elements[kLanes];
  store(elements, v);
  std::memcpy(to, elements, count * sizeof(Stored));
}

// Stores the lanes whose bits are set, if there is an instruction for it.
#if defined(__AVX512F__)
constexpr bool kStoresLanes = true;

inline void store_lanes(float* to, uint32_t bits, Vector<float> v) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(bits), bit_cast<__m512>(v));
}
inline void store_lanes(double* to, uint32_t bits, Vector<double> v) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(bits), bit_cast<__m512d>(v));
}
template <typename Half>
inline void store_lanes(Half* to, uint32_t bits, Vector<float> v) {
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(bits), bit_cast<__m256i>(narrow(v, to)));
}
#else
constexpr bool kStoresLanes = false;
#endif

// The indices of a vector's values; they are not negative, and as wide as the values.
template <typename Real>
inline Unsigned<Real> load_indices(const int32_t* from) {
  typedef int32_t Narrow __attribute__((vector_size(4 * Lanes<Real>::kCount)));
  Narrow indices;
  std::memcpy(&indices, from, sizeof(indices));
  if constexpr (sizeof(Real) == 4)
    return bit_cast<Unsigned<Real>>(indices);
  else
    return bit_cast<Unsigned<Real>>(__builtin_convertvector(indices, Integers<Real>));
}

template <typename Real>
inline Unsigned<Real> load_first_indices(const int32_t* from, int64_t count) {
  int32_t indices[Lanes<Real>::kCount] = {};
  std::memcpy(indices, from, count * sizeof(int32_t));
  return load_indices<Real>(indices);
}

// Stores past the caches, without reading the line first; `to` is aligned to the stored vector.
template <typename Stored, typename V>
inline void store_past_caches(Stored* to, V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Stored) == 2)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_cast<__m256i>(narrow(v, to)));
  else
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), bit_cast<__m512i>(v));
#elif defined(__AVX2__)
  if constexpr (sizeof(Stored) == 2)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), bit_cast<__m128i>(narrow(v, to)));
  else
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bit_cast<__m256i>(v));
#else
  store(to, v);
#endif
}

// Makes stores past the caches visible to other threads.
inline void fence_stores() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

}  // namespace
