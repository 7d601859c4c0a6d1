// Memory for results that no cache could hold, and how it is best written.
//
// malloc takes so much memory from the system again at each call. The system clears a page when it
// is first written: clearing pages of 4 KiB, one fault after the other, takes longer than a loss
// over them, and pages of 2 MiB a third of that. What has just been cleared is in the caches, so
// that stores past them have to take it out first; they pay in memory that has its pages already,
// as other allocators give it.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace hace {

// The most that glibc keeps for the next call.
constexpr int64_t kLargeResult = int64_t{32} << 20;

// Whether the system has yet to give pages to this memory, by the page in its middle.
inline bool has_no_pages(const void* memory, int64_t bytes) {
#if defined(__linux__)
  const uintptr_t size = sysconf(_SC_PAGESIZE);
  const uintptr_t page = (reinterpret_cast<uintptr_t>(memory) + bytes / 2) / size * size;
  unsigned char is_there = 0;
  return mincore(reinterpret_cast<void*>(page), size, &is_there) == 0 && !(is_there & 1);
#else
  return false;
#endif
}

// Asks for pages of 2 MiB, where the system gives them to those who ask.
inline void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage,
                  last = (begin + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

inline bool past_caches_pays(const void* result, int64_t bytes) {
  return result && bytes > kLargeResult && !has_no_pages(result, bytes);
}

}  // namespace hace
