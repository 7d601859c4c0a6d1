// CUDA's overloads of atomics, as plain code, since only one thread runs at a time.
#pragma once

#include <algorithm>

#include "block.h"
#include "half.h"

#define HACE_EMULATED_ATOMIC(name, type, result) \
  inline type name(type* address, type value) {  \
    const type old = *address;                   \
    *address = result;                           \
    return old;                                  \
  }
#define HACE_EMULATED_ATOMIC_OF_INTEGERS(name, result) \
  HACE_EMULATED_ATOMIC(name, int, result)              \
  HACE_EMULATED_ATOMIC(name, unsigned, result)         \
  HACE_EMULATED_ATOMIC(name, unsigned long long, result)

HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicAdd, old + value)
HACE_EMULATED_ATOMIC(atomicAdd, float, old + value)
HACE_EMULATED_ATOMIC(atomicAdd, double, old + value)
HACE_EMULATED_ATOMIC(atomicAdd, __half, old + value)
HACE_EMULATED_ATOMIC(atomicAdd, __nv_bfloat16, old + value)
HACE_EMULATED_ATOMIC(atomicSub, int, old - value)
HACE_EMULATED_ATOMIC(atomicSub, unsigned, old - value)
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicMax, std::max(old, value))
HACE_EMULATED_ATOMIC(atomicMax, long long, std::max(old, value))
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicMin, std::min(old, value))
HACE_EMULATED_ATOMIC(atomicMin, long long, std::min(old, value))
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicAnd, old& value)
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicOr, old | value)
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicXor, old ^ value)
HACE_EMULATED_ATOMIC_OF_INTEGERS(atomicExch, value)
HACE_EMULATED_ATOMIC(atomicExch, float, value)

// A failed swap lets other threads run, since the thread that holds the lock may be waiting.
#define HACE_EMULATED_CAS(type)                                     \
  inline type atomicCAS(type* address, type expected, type value) { \
    const type old = *address;                                      \
    if (old == expected)                                            \
      *address = value;                                             \
    else                                                            \
      hace_emulation::block_of("atomicCAS").yield();                \
    return old;                                                     \
  }
HACE_EMULATED_CAS(int)
HACE_EMULATED_CAS(unsigned)
HACE_EMULATED_CAS(unsigned long long)
HACE_EMULATED_CAS(unsigned short)
