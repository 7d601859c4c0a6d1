// What a kernel has computed from arguments that are bound and do not change, for its next call.
#pragma once

#include <memory>
#include <mutex>

namespace hace {

class Derived {
 public:
  // The value that make() returned when it was first asked for; always ask for the same type.
  template <typename T, typename Make>
  const T& get(Make make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!value_) value_ = std::shared_ptr<void>(std::make_shared<T>(make()));
    return *static_cast<const T*>(value_.get());
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<void> value_;
};

}  // namespace hace
