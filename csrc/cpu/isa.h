// The instruction sets that kernels are compiled for, and the best one that this processor runs.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace hace {

enum class Isa { kGeneric, kAvx2, kAvx512 };

#if defined(__x86_64__)
// Conversions to and from float16; clang has no name for them in __builtin_cpu_supports.
inline bool supports_f16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

inline Isa supported_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return Isa::kAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c())
    return Isa::kAvx2;
#endif
  return Isa::kGeneric;
}

// HACE_CPU_CAPABILITY=generic or avx2 in the environment asks for less than the processor has.
inline Isa best_isa() {
  static const Isa isa = [] {
    const Isa supported = supported_isa();
    const char* wanted = std::getenv("HACE_CPU_CAPABILITY");
    if (wanted && std::strcmp(wanted, "generic") == 0) return Isa::kGeneric;
    if (wanted && std::strcmp(wanted, "avx2") == 0 && supported != Isa::kGeneric) return Isa::kAvx2;
    return supported;
  }();
  return isa;
}

// The kernels of `name` for the best instruction set and an element type.
#if defined(__x86_64__)
#define HACE_BEST_KERNEL(name, ...)                                        \
  (::hace::best_isa() == ::hace::Isa::kAvx512 ? name##_avx512(__VA_ARGS__) \
   : ::hace::best_isa() == ::hace::Isa::kAvx2 ? name##_avx2(__VA_ARGS__)   \
                                              : name##_generic(__VA_ARGS__))
#else
#define HACE_BEST_KERNEL(name, ...) name##_generic(__VA_ARGS__)
#endif

inline const char* name_of(Isa isa) {
  return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "generic";
}

}  // namespace hace
