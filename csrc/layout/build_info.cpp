#include "build_info.h"

#include "../cpu/isa.h"

namespace hace {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

#if defined(__OPTIMIZE__)
constexpr const char* kBuildType = "release";
#else
constexpr const char* kBuildType = "debug";
#endif

#if defined(__x86_64__)
constexpr const char* kArchitecture = "x86_64";
#elif defined(__aarch64__)
constexpr const char* kArchitecture = "aarch64";
#else
constexpr const char* kArchitecture = "other";
#endif

}  // namespace

std::vector<std::pair<std::string, std::string>> build_info() {
  return {{"compiler", kCompiler},
          {"cxx_standard", std::to_string(__cplusplus / 100 % 100)},
          {"build_type", kBuildType},
          {"architecture", kArchitecture}};
}

std::string cpu_capability() { return name_of(best_isa()); }

}  // namespace hace
