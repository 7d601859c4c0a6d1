// parallel_for(begin, end, grain, f): f(first, last) on parts of begin .. end, on torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

#include <cstdint>
#endif

namespace hace {

#if defined(__SANITIZE_THREAD__)
// ThreadSanitizer does not see how torch's threads wait for each other, because the library in
// which they wait is not compiled with it, and would report every task as a race with its caller.
// So it is told here that tasks come after what the caller did before them, and before what the
// caller does next. There are two addresses because tasks are not ordered among each other: with a
// single one, a task would count as later than all tasks that had ended when it began.
template <typename F>
struct Task {
  const F& f;
  mutable char begun = 0, ended = 0;

  void operator()(int64_t first, int64_t last) const {
    __tsan_acquire(&begun);  // before anything of the caller is read, including `f`
    f(first, last);
    __tsan_release(&ended);
  }
};

template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  const Task<F> task = {f};
  __tsan_release(&task.begun);
  torch::stable::parallel_for(begin, end, grain, task);
  __tsan_acquire(&task.ended);
}
#else
using torch::stable::parallel_for;
#endif

}  // namespace hace
