// The element types that the kernels take; no torch here.
#pragma once

namespace hace {

enum class Element { kFloat32, kFloat64, kBFloat16, kFloat16 };

}  // namespace hace
