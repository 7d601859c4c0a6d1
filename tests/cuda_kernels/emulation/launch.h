// A launch is refused if CUDA would refuse it; otherwise its blocks run one after another.
#pragma once

#include <cstdio>
#include <tuple>
#include <utility>

#include "block.h"
#include "runtime.h"

namespace hace_emulation {

// The dynamic shared memory of the running launch.
inline thread_local void* dynamic_shared = nullptr;

// The reason why CUDA would refuse a launch, or null.
inline const char* refusal(dim3 grid, dim3 block, size_t shared_bytes, size_t allowance,
                           cudaError_t* error) {
  *error = cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "an empty grid";
  if (block.x == 0 || block.y == 0 || block.z == 0) return "an empty block";
  if (grid.x > 0x7fffffff) return "more than 2^31 - 1 blocks along x";
  if (grid.y > 65535 || grid.z > 65535) return "more than 65535 blocks along y or z";
  if (block.x > 1024 || block.y > 1024 || block.z > 64 ||
      uint64_t{block.x} * block.y * block.z > kMaxThreads)
    return "more than 1024 threads per block, or 64 along z";
  *error = cudaErrorInvalidValue;
  if (shared_bytes > allowance)
    return "more dynamic shared memory than cudaFuncSetAttribute allowed for the kernel";
  *error = cudaSuccess;
  return nullptr;
}

template <typename... Parameters>
class Launcher {
 public:
  using Kernel = void (*)(Parameters...);

  Launcher(const char* name, Site site, Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes,
           cudaStream_t)
      : kernel_(kernel), shared_bytes_(shared_bytes), launch_{name, site, grid, block, {}, {}} {}

  void operator()(Parameters... parameters) {
    const dim3 grid = launch_.grid;
    const size_t allowance = shared_allowances.get(reinterpret_cast<const void*>(kernel_));
    cudaError_t error;
    if (const char* why = refusal(grid, launch_.block, shared_bytes_, allowance, &error)) {
      std::fprintf(stderr,
                   "hace emulation: refused %s at %s:%d: %s (grid %u, %u, %u; block %u, %u, %u; "
                   "%zu bytes)\n",
                   launch_.kernel, launch_.site.file, launch_.site.line, why, grid.x, grid.y,
                   grid.z, launch_.block.x, launch_.block.y, launch_.block.z, shared_bytes_);
      remember(error);
      return;
    }
    if (running_block) fail("a launch from within a kernel");
    // Each thread gets its own copy of the parameters, since they are passed by value.
    using Bound = std::pair<Kernel, std::tuple<Parameters...>>;
    const Bound bound{kernel_, {parameters...}};
    launch_.parameters = &bound;
    launch_.run = [](const void* run) {
      const auto& [kernel, arguments] = *static_cast<const Bound*>(run);
      std::apply(kernel, arguments);
    };
    run_blocks(allowance);
  }

 private:
  void run_blocks(size_t allowance) {
    Block& block = host_block();
    running_block = &block;
    block.shared.begin_launch(allowance > default_shared_bytes() ? max_shared_bytes()
                                                                 : default_shared_bytes());
    dynamic_shared = block.shared.allocate("(dynamic)", shared_bytes_, 16);
    Order threads = Order::from("HACE_EMULATED_ORDER");
    Order order = Order::from("HACE_EMULATED_BLOCK_ORDER");
    const dim3 grid = launch_.grid;
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    Sequence sequence(order, blocks);
    for (uint64_t i = 0; i < blocks; ++i) {
      const uint64_t b = sequence.next();
      const uint3 index{static_cast<unsigned>(b % grid.x),
                        static_cast<unsigned>(b / grid.x % grid.y),
                        static_cast<unsigned>(b / grid.x / grid.y)};
      block.run(launch_, index, threads);
    }
    running_block = nullptr;
  }

  Kernel kernel_;
  size_t shared_bytes_;
  Launch launch_;
};

// An array of the block. `Tag` is a different type for each declaration in each instantiation.
template <typename Array, typename Tag>
Array& shared_array(const char* name, Tag) {
  static thread_local uint64_t launch = 0;
  static thread_local void* memory = nullptr;
  Shared& shared = block_of("HACE_SHARED").shared;
  if (launch != shared.launch()) {
    memory = shared.allocate(name, sizeof(Array), alignof(Array));
    launch = shared.launch();
  }
  return *static_cast<Array*>(memory);
}

}  // namespace hace_emulation
