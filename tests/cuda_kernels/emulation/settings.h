// Settings from environment variables, read anew at each launch so that a test can change them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace hace_emulation {

inline size_t setting(const char* name, size_t otherwise) {
  const char* value = std::getenv(name);
  return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// The order in which threads or blocks run: forward, backward or random:SEED. The effect of a
// missing barrier or of a race between blocks depends on it.
struct Order {
  enum Kind { kForward, kBackward, kRandom } kind = kForward;
  uint64_t state = 0;

  static Order from(const char* name) {
    const char* value = std::getenv(name);
    if (!value || !std::strcmp(value, "forward")) return {kForward, 0};
    if (!std::strcmp(value, "backward")) return {kBackward, 0};
    if (!std::strncmp(value, "random:", 7)) return {kRandom, std::strtoull(value + 7, nullptr, 10)};
    std::fprintf(stderr, "hace emulation: %s=%s is not forward, backward or random:SEED\n", name,
                 value);
    std::abort();
  }

  // splitmix64
  uint64_t random() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

// The numbers 0 … count - 1 in an order that needs no memory: steps of a stride coprime to count.
class Sequence {
 public:
  Sequence() = default;
  Sequence(Order& order, uint64_t count) : count_(count) {
    if (order.kind == Order::kBackward) {
      at_ = count - 1;
      stride_ = count - 1;
    } else if (order.kind == Order::kRandom) {
      at_ = order.random() % count;
      do {
        stride_ = order.random() % count;
      } while (std::gcd(stride_, count) != 1);
    }
  }

  uint64_t next() {
    const uint64_t now = at_;
    at_ += stride_;
    if (at_ >= count_) at_ -= count_;
    return now;
  }

 private:
  uint64_t count_ = 1, at_ = 0, stride_ = 1;
};

}  // namespace hace_emulation
