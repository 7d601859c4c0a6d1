// Makes subnormal numbers count as 0 while kernels run.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hace {

// On x86, an operation that produces or reads a subnormal number is done in microcode: one such
// lane makes a vector instruction take over a hundred cycles. Exponentials far below the maximum,
// and entries of a gradient far below its largest, are subnormal by the million if classes are
// masked or logits are spread out. Nothing is lost by treating them as 0: an entry of a gradient
// below 1.2e-38 (2.2e-308 in float64) becomes 0, and sums have maxima of their own, so that none is
// that small.
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
  SubnormalsAreZero() {}  // not defaulted, so that compilers do not report an unused variable
#endif
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;
};

}  // namespace hace
