// The barrier of a block, with and without a vote, and fences, which have nothing to do here.
#pragma once

#include "block.h"

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  hace_emulation::block_of("__syncthreads").barrier("__syncthreads", {file, line}, false);
}
inline int __syncthreads_count(int predicate, const char* file = __builtin_FILE(),
                               int line = __builtin_LINE()) {
  const char* name = "__syncthreads_count";
  return hace_emulation::block_of(name).barrier(name, {file, line}, predicate);
}
inline int __syncthreads_or(int predicate, const char* file = __builtin_FILE(),
                            int line = __builtin_LINE()) {
  const char* name = "__syncthreads_or";
  return hace_emulation::block_of(name).barrier(name, {file, line}, predicate) != 0;
}
inline int __syncthreads_and(int predicate, const char* file = __builtin_FILE(),
                             int line = __builtin_LINE()) {
  const char* name = "__syncthreads_and";
  hace_emulation::Block& block = hace_emulation::block_of(name);
  return block.barrier(name, {file, line}, predicate) == block.size();
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { hace_emulation::block_of("__nanosleep").yield(); }
[[noreturn]] inline void __trap() { hace_emulation::fail("__trap()"); }
