// CUDA C++ compiled by a C++17 compiler and run on the CPU, for tests of the kernels' logic.
//
// The threads of a block are fibers that run one at a time, up to the next barrier, shuffle or
// vote. Blocks run one after another. A mistake that would make a GPU hang or compute wrong numbers
// ends the process with a message:
//   - a barrier that some threads of the block do not reach,
//   - a shuffle or vote whose mask names lanes that do not reach it, or whose mask lacks its
//   caller,
//   - under AddressSanitizer, an access beyond global or shared memory.
// Shared memory that was not written is NaN, and so is a value shuffled from a lane outside the
// mask. If the last warp of a block is incomplete, its missing lanes are not waited for, whatever
// the mask says. A kernel's own __launch_bounds__ has no effect.
//
// Environment variables, read at each launch:
//   HACE_EMULATED_ORDER            order of threads: forward (default), backward or random:SEED
//   HACE_EMULATED_BLOCK_ORDER      order of blocks, likewise
//   HACE_EMULATED_SHARED_BYTES     shared memory that a block may ask for (default 232448)
//   HACE_EMULATED_L2_BYTES, HACE_EMULATED_MULTIPROCESSORS    what the device claims to have
#pragma once

#include "arithmetic.h"
#include "atomics.h"
#include "barrier.h"
#include "block.h"
#include "half.h"
#include "launch.h"
#include "qualifiers.h"
#include "runtime.h"
#include "vector_types.h"
#include "warp.h"

#define HACE_SHARED(type, name, count) \
  auto& name = hace_emulation::shared_array<type[count]>(#name, [] {})

#define HACE_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(hace_emulation::dynamic_shared)

#define HACE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                          \
  hace_emulation::Launcher(#kernel, {__FILE__, __LINE__}, kernel, grid, block, shared_bytes, \
                           stream)(__VA_ARGS__)
