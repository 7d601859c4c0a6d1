// The running block: its threads, which of them runs next, the barrier at which they meet, and the
// report if they do not.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fibers.h"
#include "settings.h"
#include "shared.h"
#include "thread.h"

namespace hace_emulation {

class Block {
 public:
  Shared shared;

  // Runs all threads of block `index` of a launch.
  void run(const Launch& launch, uint3 index, Order& order) {
    launch_ = &launch;
    order_ = &order;
    gridDim = launch.grid;
    blockDim = launch.block;
    blockIdx = index;
    threads_.resize(kMaxThreads);
    size_ = launch.block.x * launch.block.y * launch.block.z;
    alive_ = size_;
    arrived_ = votes_ = 0;
    unsigned i = 0;
    for (unsigned z = 0; z < launch.block.z; ++z)
      for (unsigned y = 0; y < launch.block.y; ++y)
        for (unsigned x = 0; x < launch.block.x; ++x) threads_[i++].index = {x, y, z};
    std::memset(state_, static_cast<int>(State::kFresh), size_);
    std::memset(waiting_lanes_, 0, sizeof(waiting_lanes_));
    begin_pass();
    shared.begin_block();
    resume(next(), host_);
    shared.end_block();
    launch_ = nullptr;
  }

  unsigned size() const { return size_; }
  unsigned current() const { return current_; }
  State state(unsigned thread) const { return state_[thread]; }
  Thread& thread(unsigned i) { return threads_[i]; }
  // The lanes of a warp that wait in a call of the warp.
  unsigned& waiting_lanes(unsigned warp) { return waiting_lanes_[warp]; }

  // Waits for all threads of the block. Returns how many of them came with `vote`.
  unsigned barrier(const char* name, Site site, bool vote) {
    const Call call{name, site, 0};
    if (arrived_ == 0) meeting_ = call;
    threads_[current_].call = call;
    if (!(meeting_ == call)) fail_divergent();
    votes_ += vote;
    if (++arrived_ < size_) {
      wait();
    } else {
      count_ = votes_;
      arrived_ = votes_ = 0;
      std::memset(state_, static_cast<int>(State::kReady), size_);
    }
    return count_;
  }

  // Lets other threads run until one of them makes this thread ready.
  void wait() {
    state_[current_] = State::kWaiting;
    idle_turns_ = 0;
    leave();
  }
  void make_ready(unsigned thread) { state_[thread] = State::kReady; }

  // Lets other threads run. Fails if all threads only do that: what they wait for is not going to
  // happen, or would happen in another block, which runs before this one or after it.
  void yield() {
    if (++idle_turns_ == kPatience) {
      hace_emulation::fail("threads wait in a loop for something that does not happen");
    }
    leave();
  }

  // Says what is wrong and where, and ends the process.
  [[noreturn]] void fail(const char* format, va_list arguments) {
    std::fflush(stdout);
    std::fprintf(stderr, "hace emulation: ");
    std::vfprintf(stderr, format, arguments);
    if (launch_) {
      std::fprintf(stderr, "\n  in kernel %s, launched at %s:%d\n", launch_->kernel,
                   launch_->site.file, launch_->site.line);
      std::fprintf(stderr, "  block (%u, %u, %u) of (%u, %u, %u), threads (%u, %u, %u)\n",
                   blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z, blockDim.x,
                   blockDim.y, blockDim.z);
      describe_threads();
    }
    std::fprintf(stderr, "\n");
    std::abort();
  }

 private:
  // Each fiber runs this: one thread after another, from the start of the kernel.
  static void work() noexcept;

  void work_on_threads() {
    for (;;) {
      launch_->run(launch_->parameters);
      state_[current_] = State::kExited;
      idle_turns_ = 0;
      Fiber* const fiber = threads_[current_].fiber;
      if (--alive_ == 0) {
        idle_.push_back(fiber);
        fiber->switch_to(host_);
      } else {
        const unsigned thread = next();
        if (state_[thread] == State::kFresh) {
          begin(thread, fiber);
        } else {
          idle_.push_back(fiber);
          resume(thread, *fiber);
        }
      }
    }
  }

  void begin(unsigned thread, Fiber* fiber) {
    threads_[thread].fiber = fiber;
    state_[thread] = State::kReady;
    current_ = thread;
    threadIdx = threads_[thread].index;
  }

  void resume(unsigned thread, Fiber& from) {
    if (state_[thread] == State::kFresh) {
      begin(thread, idle_fiber());
    } else {
      current_ = thread;
      threadIdx = threads_[thread].index;
    }
    from.switch_to(*threads_[thread].fiber);
  }

  void leave() {
    const unsigned left = current_, thread = next();
    if (thread != left) resume(thread, *threads_[left].fiber);
  }

  Fiber* idle_fiber() {
    if (idle_.empty()) {
      idle_.reserve(kMaxThreads);
      fibers_.push_back(std::make_unique<Fiber>(work, static_cast<unsigned>(fibers_.size())));
      return fibers_.back().get();
    }
    Fiber* const fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  // Threads run in passes; in a pass, each thread runs until it has to wait.
  void begin_pass() {
    left_in_pass_ = size_;
    sequence_ = Sequence(*order_, size_);
  }

  unsigned next() {
    for (unsigned seen = 0; seen < 2 * size_; ++seen) {
      if (left_in_pass_-- == 0) {
        begin_pass();
        --left_in_pass_;
      }
      const auto thread = static_cast<unsigned>(sequence_.next());
      if (state_[thread] == State::kFresh || state_[thread] == State::kReady) return thread;
    }
    fail_stuck();
  }

  [[noreturn]] void fail_divergent() {
    hace_emulation::fail(
        "divergent barrier: a thread came to %s at %s:%d while others wait in %s "
        "at %s:%d",
        threads_[current_].call.name, threads_[current_].call.site.file,
        threads_[current_].call.site.line, meeting_.name, meeting_.site.file, meeting_.site.line);
  }

  // No thread can go on. The report names the call of a warp rather than the barrier of the block:
  // if the warp waits for a lane that is at the barrier, the call is more likely the mistake.
  [[noreturn]] void fail_stuck() {
    for (unsigned i = 0; i < size_; ++i) {
      const Call& call = threads_[i].call;
      if (state_[i] != State::kWaiting || !call.mask) continue;
      const unsigned warp = i / warpSize * warpSize;
      unsigned exited = 0, elsewhere = 0;
      for (unsigned lane = 0; lane < 32 && warp + lane < size_; ++lane) {
        if (!(call.mask >> lane & 1)) continue;
        if (state_[warp + lane] == State::kExited)
          exited |= 1u << lane;
        else if (!(threads_[warp + lane].call == call))
          elsewhere |= 1u << lane;
      }
      if (!exited && !elsewhere) continue;
      hace_emulation::fail(
          "%s at %s:%d with mask 0x%08x waits for lanes that do not come: of warp "
          "%u, 0x%08x exited and 0x%08x wait elsewhere",
          call.name, call.site.file, call.site.line, call.mask, i / warpSize, exited, elsewhere);
    }
    hace_emulation::fail(
        "divergent barrier: %u of %u threads wait in %s at %s:%d and the others "
        "do not come",
        arrived_, size_, meeting_.name, meeting_.site.file, meeting_.site.line);
  }

  // Prints a line for each place in the kernel where threads are.
  void describe_threads() const {
    const uint3 me = threads_[current_].index;
    std::fprintf(stderr, "  thread (%u, %u, %u) ran last\n", me.x, me.y, me.z);
    for (unsigned first = 0; first < size_; ++first) {
      unsigned before = 0, last = first, count = 0;
      while (before < first && !same_place(before, first)) ++before;
      if (before < first) continue;
      for (unsigned i = first; i < size_; ++i) {
        if (!same_place(first, i)) continue;
        last = i;
        ++count;
      }
      const uint3 a = threads_[first].index, b = threads_[last].index;
      std::fprintf(stderr, "  %u threads among (%u, %u, %u) to (%u, %u, %u) ", count, a.x, a.y, a.z,
                   b.x, b.y, b.z);
      describe_place(first);
    }
  }

  void describe_place(unsigned thread) const {
    const Call& call = threads_[thread].call;
    switch (state_[thread]) {
      case State::kFresh:
        std::fprintf(stderr, "have not begun\n");
        break;
      case State::kReady:
        std::fprintf(stderr, "can run\n");
        break;
      case State::kExited:
        std::fprintf(stderr, "exited\n");
        break;
      case State::kWaiting:
        std::fprintf(stderr, "wait in %s at %s:%d", call.name, call.site.file, call.site.line);
        if (call.mask) std::fprintf(stderr, ", mask 0x%08x", call.mask);
        std::fprintf(stderr, "\n");
    }
  }

  bool same_place(unsigned a, unsigned b) const {
    return state_[a] == state_[b] &&
           (state_[a] != State::kWaiting || threads_[a].call == threads_[b].call);
  }

  const Launch* launch_ = nullptr;
  Fiber host_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;

  std::vector<Thread> threads_;
  State state_[kMaxThreads];
  unsigned size_ = 0, alive_ = 0, current_ = 0;
  unsigned waiting_lanes_[kMaxThreads / warpSize];

  Order* order_ = nullptr;
  Sequence sequence_;
  unsigned left_in_pass_ = 0;

  static constexpr unsigned kPatience = 1 << 20;
  unsigned idle_turns_ = 0;

  Call meeting_{};  // the barrier at which threads wait
  unsigned arrived_ = 0, votes_ = 0;
  unsigned count_ = 0;  // the votes of the last barrier
};

// Each host thread runs its own kernels, one at a time.
inline Block& host_block() {
  static thread_local Block block;
  return block;
}
inline thread_local Block* running_block = nullptr;

inline void Block::work() noexcept {
  Block& block = *running_block;
  block.threads_[block.current_].fiber->arrived();
  block.work_on_threads();
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  host_block().fail(format, arguments);
}

// The block whose thread calls `name`, which only a kernel may.
inline Block& block_of(const char* name) {
  if (!running_block) fail("%s outside a kernel", name);
  return *running_block;
}

}  // namespace hace_emulation
