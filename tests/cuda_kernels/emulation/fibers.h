// The stacks between which a host thread switches, one for each CUDA thread that has to wait.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#include "sanitizers.h"

// On other processors, or if asked for, the C library switches, which takes a system call.
#if defined(__x86_64__) && !defined(HACE_EMULATED_UCONTEXT)
#define HACE_EMULATED_SWITCH
#else
#include <ucontext.h>
#endif

namespace hace_emulation {

#ifdef HACE_EMULATED_SWITCH
// Pushes the callee-saved registers on the current stack and pops those of the other one. It jumps
// instead of using `ret`, so that the processor's prediction of returns stays right.
[[gnu::naked, gnu::noinline, gnu::noipa]] inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm volatile(
      "pushq %%rbp\n\tpushq %%rbx\n\tpushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
      "movq %%rsp, (%%rdi)\n\tmovq %%rsi, %%rsp\n\t"
      "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\tpopq %%rbx\n\tpopq %%rbp\n\t"
      "popq %%rcx\n\tjmp *%%rcx" ::
          : "memory");
}
#endif

class Fiber {
 public:
  // The host thread's own stack.
  Fiber() {
#ifdef __SANITIZE_ADDRESS__
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom_, &bytes_);
    pthread_attr_destroy(&attributes);
#endif
  }

  // A stack on which `entry`, which must not return, starts at the first switch to it. `number`
  // staggers the tops of the stacks, since equally aligned stacks would share a few cache lines.
  Fiber(void (*entry)(), unsigned number) : owns_(true) {
    bytes_ = kStackBytes + kPage;
    bottom_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bottom_ == MAP_FAILED) abort();
    mprotect(bottom_, kPage, PROT_NONE);  // so that an overflow is a fault
    const size_t stagger = number % 16 * 192;
#ifdef HACE_EMULATED_SWITCH
    auto* top = reinterpret_cast<void**>(static_cast<char*>(bottom_) + bytes_ - 64 - stagger);
    *--top = nullptr;  // the address to which `entry` would return
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = bottom_;
    context_.uc_stack.ss_size = bytes_ - stagger;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  ~Fiber() {
    if (!owns_) return;
    unpoison(bottom_, bytes_);
    munmap(bottom_, bytes_);
  }

  // Runs `to` until it switches back.
  void switch_to(Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake_stack_, to.bottom_, to.bytes_);
#endif
#ifdef HACE_EMULATED_SWITCH
    switch_stack(&context_, to.context_);
#else
    swapcontext(&context_, &to.context_);
#endif
    arrived();
  }

  // `entry` has to call this first.
  void arrived() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
  }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kStackBytes = kAddressSanitizer ? 256 * 1024 : 64 * 1024;

  bool owns_ = false;
  void* bottom_ = nullptr;
  size_t bytes_ = 0;
#ifdef HACE_EMULATED_SWITCH
  void* context_ = nullptr;
#else
  ucontext_t context_;
#endif
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack_ = nullptr;
#endif
};

}  // namespace hace_emulation
