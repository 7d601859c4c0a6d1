// float4 and similar types, with CUDA's alignment, and dim3.
#pragma once

#define HACE_EMULATED_VECTOR2(name, type) \
  struct alignas(2 * sizeof(type)) name { \
    type x, y;                            \
  };                                      \
  inline constexpr name make_##name(type x, type y) { return {x, y}; }
#define HACE_EMULATED_VECTOR3(name, type) \
  struct name {                           \
    type x, y, z;                         \
  };                                      \
  inline constexpr name make_##name(type x, type y, type z) { return {x, y, z}; }
// The alignment is at most 16 bytes, the width of the widest load.
#define HACE_EMULATED_VECTOR4(name, type)                         \
  struct alignas(sizeof(type) < 4 ? 4 * sizeof(type) : 16) name { \
    type x, y, z, w;                                              \
  };                                                              \
  inline constexpr name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
#define HACE_EMULATED_VECTORS(name, type) \
  HACE_EMULATED_VECTOR2(name##2, type)    \
  HACE_EMULATED_VECTOR3(name##3, type)    \
  HACE_EMULATED_VECTOR4(name##4, type)

HACE_EMULATED_VECTORS(char, signed char)
HACE_EMULATED_VECTORS(uchar, unsigned char)
HACE_EMULATED_VECTORS(short, short)
HACE_EMULATED_VECTORS(ushort, unsigned short)
HACE_EMULATED_VECTORS(int, int)
HACE_EMULATED_VECTORS(uint, unsigned)
HACE_EMULATED_VECTORS(longlong, long long)
HACE_EMULATED_VECTORS(ulonglong, unsigned long long)
HACE_EMULATED_VECTORS(float, float)
HACE_EMULATED_VECTORS(double, double)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
