// Calls that the lanes of a warp make together: each lane gives a value and waits, and the last one
// to come computes what each lane gets.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"
#include "half.h"

namespace hace_emulation {

// Computes what each lane of a mask gets.
using Exchange = void (*)(Thread* lanes, unsigned mask);

inline uint64_t meet_lanes(const char* name, Site site, unsigned mask, uint64_t given,
                           unsigned source, Exchange exchange) {
  Block& block = block_of(name);
  const unsigned me = block.current(), lane = me % warpSize, first = me - lane;
  Thread* const lanes = &block.thread(first);
  lanes[lane].call = {name, site, mask};
  lanes[lane].given = given;
  lanes[lane].source = source;
  if (!(mask >> lane & 1)) {
    fail("%s at %s:%d: lane %u calls with mask 0x%08x, which lacks it", name, site.file, site.line,
         lane, mask);
  }
  // The last warp may be incomplete; its missing lanes are not waited for.
  const unsigned there = block.size() - first < 32 ? (1u << (block.size() - first)) - 1 : ~0u;
  unsigned& waiting = block.waiting_lanes(me / warpSize);
  waiting |= 1u << lane;
  bool complete = !(mask & there & ~waiting);
  for (unsigned other = 0; complete && other < 32; ++other) {
    if (mask & there & 1u << other) complete = lanes[other].call == lanes[lane].call;
  }
  if (complete) {
    exchange(lanes, mask & there);
    waiting &= ~mask;
    for (unsigned other = 0; other < 32; ++other) {
      if (mask & there & 1u << other) block.make_ready(first + other);
    }
  } else {
    block.wait();
  }
  return lanes[lane].got;
}

// What a lane gets from a lane that did not give a value: NaN, or -1.
inline constexpr uint64_t kNothing = ~uint64_t{0};

inline void exchange_nothing(Thread*, unsigned) {}

inline void exchange_values(Thread* lanes, unsigned mask) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const unsigned source = lanes[lane].source;
    lanes[lane].got = mask >> source & 1 ? lanes[source].given : kNothing;
  }
}

inline void exchange_votes(Thread* lanes, unsigned mask) {
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1 && lanes[lane].given) ballot |= 1u << lane;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) lanes[lane].got = uint64_t{mask} << 32 | ballot;
  }
}

struct Votes {
  unsigned asked, yes;
};
inline Votes vote(const char* name, Site site, unsigned mask, bool yes) {
  const uint64_t got = meet_lanes(name, site, mask, yes, 0, exchange_votes);
  return {static_cast<unsigned>(got >> 32), static_cast<unsigned>(got)};
}

template <typename Value>
Value shuffle(const char* name, Site site, unsigned mask, Value value, unsigned source) {
  static_assert(sizeof(Value) <= 8 && std::is_trivially_copyable_v<Value>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  bits = meet_lanes(name, site, mask, bits, source, exchange_values);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(value));
  return value;
}

// A group of `width` lanes, within which a shuffle exchanges values.
struct Group {
  unsigned lane, first, last;

  Group(const char* name, Site site, int width) {
    lane = block_of(name).current() % warpSize;
    if (width <= 0 || width > 32 || width & (width - 1)) {
      fail("%s at %s:%d: width %d is not a power of two up to 32", name, site.file, site.line,
           width);
    }
    first = lane & ~(width - 1);
    last = first + width - 1;
  }
};

}  // namespace hace_emulation

template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int source, int width = warpSize,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const hace_emulation::Group group("__shfl_sync", {file, line}, width);
  const unsigned lane = group.first + (source & (width - 1));
  return hace_emulation::shuffle("__shfl_sync", {file, line}, mask, value, lane);
}
template <typename Value>
Value __shfl_up_sync(unsigned mask, Value value, unsigned delta, int width = warpSize,
                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const hace_emulation::Group group("__shfl_up_sync", {file, line}, width);
  const unsigned lane = delta > group.lane - group.first ? group.lane : group.lane - delta;
  return hace_emulation::shuffle("__shfl_up_sync", {file, line}, mask, value, lane);
}
template <typename Value>
Value __shfl_down_sync(unsigned mask, Value value, unsigned delta, int width = warpSize,
                       const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const hace_emulation::Group group("__shfl_down_sync", {file, line}, width);
  const unsigned lane = delta > group.last - group.lane ? group.lane : group.lane + delta;
  return hace_emulation::shuffle("__shfl_down_sync", {file, line}, mask, value, lane);
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int lanes, int width = warpSize,
                      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const hace_emulation::Group group("__shfl_xor_sync", {file, line}, width);
  const unsigned other = group.lane ^ static_cast<unsigned>(lanes);
  const unsigned lane = other > group.last ? group.lane : other;
  return hace_emulation::shuffle("__shfl_xor_sync", {file, line}, mask, value, lane);
}

inline void __syncwarp(unsigned mask = 0xffffffff, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  using namespace hace_emulation;
  meet_lanes("__syncwarp", {file, line}, mask, 0, 0, exchange_nothing);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return hace_emulation::vote("__ballot_sync", {file, line}, mask, predicate).yes;
}
inline int __any_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  return hace_emulation::vote("__any_sync", {file, line}, mask, predicate).yes != 0;
}
inline int __all_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  const auto votes = hace_emulation::vote("__all_sync", {file, line}, mask, predicate);
  return votes.yes == votes.asked;
}

// The lanes that have not exited yet; on a GPU it may be fewer of them.
inline unsigned __activemask() {
  hace_emulation::Block& block = hace_emulation::block_of("__activemask");
  const unsigned first = block.current() / warpSize * warpSize;
  unsigned mask = 0;
  for (unsigned lane = 0; lane < 32 && first + lane < block.size(); ++lane) {
    if (block.state(first + lane) != hace_emulation::State::kExited) mask |= 1u << lane;
  }
  return mask;
}
