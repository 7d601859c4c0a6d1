// Arithmetic on scalars: CUDA's names, min and max, and views of a number's bits.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

// These are macros because glibc declares functions of some of these names. Here they are exact.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }

// The result has the wider of two types, or the unsigned one.
#define HACE_EMULATED_MIN_MAX(type, a_type, b_type) \
  inline constexpr type min(a_type a, b_type b) {   \
    const type first = a, second = b;               \
    return second < first ? second : first;         \
  }                                                 \
  inline constexpr type max(a_type a, b_type b) {   \
    const type first = a, second = b;               \
    return first < second ? second : first;         \
  }
#define HACE_EMULATED_MIN_MAX_OF_INTEGERS(type)                      \
  HACE_EMULATED_MIN_MAX(type, type, type)                            \
  HACE_EMULATED_MIN_MAX(unsigned type, unsigned type, unsigned type) \
  HACE_EMULATED_MIN_MAX(unsigned type, type, unsigned type)          \
  HACE_EMULATED_MIN_MAX(unsigned type, unsigned type, type)
HACE_EMULATED_MIN_MAX_OF_INTEGERS(int)
HACE_EMULATED_MIN_MAX_OF_INTEGERS(long)
HACE_EMULATED_MIN_MAX_OF_INTEGERS(long long)

// Of a NaN and a number, the result is the number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }

namespace hace_emulation {

template <typename To, typename From>
To view(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace hace_emulation

inline int __float_as_int(float x) { return hace_emulation::view<int>(x); }
inline unsigned __float_as_uint(float x) { return hace_emulation::view<unsigned>(x); }
inline float __int_as_float(int x) { return hace_emulation::view<float>(x); }
inline float __uint_as_float(unsigned x) { return hace_emulation::view<float>(x); }
inline long long __double_as_longlong(double x) { return hace_emulation::view<long long>(x); }
inline double __longlong_as_double(long long x) { return hace_emulation::view<double>(x); }

// Loads and stores with hints for the caches, which have no effect here.
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcg(T* address, T value) {
  *address = value;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}
