// CUDA C++ compiled by a C++17 compiler and run on the CPU, for tests of the kernels' logic.
//
// The threads of a block are fibers that run one at a time, up to the next barrier, shuffle or
// vote; blocks run one after another. A mistake that a GPU would answer with a hang or with wrong
// numbers ends the process with a message:
//   - a barrier that some threads of the block do not come to,
//   - a shuffle or vote whose mask names lanes that do not come to it, or lacks its caller,
//   - under AddressSanitizer, an access beyond global or shared memory.
// Shared memory that nobody wrote is NaN, and so is what is shuffled from a lane outside the mask.
// The lanes that the last warp of a block lacks are not waited for, whatever the mask says.
// A kernel's own __launch_bounds__ is not looked at.
//
// Environment, read at each launch:
//   HACE_EMULATED_ORDER            forward (default), backward or random:SEED, of threads
//   HACE_EMULATED_BLOCK_ORDER      the same of blocks
//   HACE_EMULATED_SHARED_BYTES     what a block may have by asking (232448)
//   HACE_EMULATED_L2_BYTES, HACE_EMULATED_MULTIPROCESSORS    what the device says it has
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
