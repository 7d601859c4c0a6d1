// Subnormal numbers count as 0 while kernels run.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hace {

// On x86 an operation that makes or meets a subnormal number traps into microcode: one such lane
// costs a vector instruction over a hundred cycles. Exponentials far below the maximum, and a
// gradient's entries far below its largest, make them by the million where classes are masked or
// logits are spread. Nothing is lost by taking them for 0: a gradient's entry below 1.2e-38
// (2.2e-308 in float64) is 0, and masses keep a maximum of their own, so that none is that small.
//
// Conversions to and from float16 keep its subnormal numbers.
class SubnormalsAreZero {
 public:
#if defined(__x86_64__)
  SubnormalsAreZero() : before_(_mm_getcsr()) {
    constexpr unsigned kResultsAreZero = 0x8000, kOperandsAreZero = 0x0040;
    _mm_setcsr(before_ | kResultsAreZero | kOperandsAreZero);
  }
  ~SubnormalsAreZero() { _mm_setcsr(before_); }

 private:
  const unsigned before_;

 public:
#else
  SubnormalsAreZero() {}  // not defaulted, or compilers take a guard for an unused variable
#endif
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;
};

}  // namespace hace
