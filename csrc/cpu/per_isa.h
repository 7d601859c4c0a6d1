// Names what a file that is compiled once per instruction set defines (HACE_ISA is the set's name),
// and chooses among element types.
#pragma once

#include "element.h"
#include "scalar_types.h"

#define HACE_JOIN_(a, b) a##b
#define HACE_JOIN(a, b) HACE_JOIN_(a, b)
#define HACE_PER_ISA(name) HACE_JOIN(name, HACE_ISA)

namespace {

// Calls make(Stored{}) for the type of `element`.
template <typename Make>
inline auto for_element(hace::Element element, Make make) -> decltype(make(float{})) {
  switch (element) {
    case hace::Element::kFloat32:
      return make(float{});
    case hace::Element::kFloat64:
      return make(double{});
    case hace::Element::kBFloat16:
      return make(BFloat16{});
    default:
      return make(Float16{});
  }
}

}  // namespace
