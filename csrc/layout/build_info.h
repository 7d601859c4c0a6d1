// How this module was built, and what the processor that runs it can do.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace hace {

std::vector<std::pair<std::string, std::string>> build_info();

// "avx512" (F, DQ, BW, VL), "avx2" (AVX2, FMA, F16C) or "generic".
std::string cpu_capability();

}  // namespace hace
