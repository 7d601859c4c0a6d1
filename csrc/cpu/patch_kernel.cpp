// Turns a patch of pixels into rows, and back, for one instruction set. Square blocks, with as many
// rows and columns as a vector has lanes, are transposed in registers. Columns may be far apart in
// memory, so all pixels of one column are visited before those of the next.

#include "patch_kernel.h"

#include "per_isa.h"
#include "transpose.h"

namespace hace {
namespace {

template <typename Stored>
struct Turn {
  using Real = work_t<Stored>;
  using Line = Vector<Real>;
  static constexpr int kCount = Lanes<Real>::kCount;
  using All = std::integral_constant<int64_t, kCount>;

  // Transposes a block of `height` lines of `width` values, `stride` apart, and stores its lines.
  template <typename Height, typename Width, typename Store>
  static void block(const Stored* from, int64_t stride, Height height, Width width, Store store) {
    Line lines[kCount];
    for (int k = 0; k < kCount; ++k)
      lines[k] = k < height ? load_first(from + k * stride, width) : Line{};
    transpose<Real>(lines);
    for (int k = 0; k < width; ++k) store(k, lines[k]);
  }

  // Calls each(first, count) for blocks of [0, size); in whole blocks, count is a constant.
  template <typename Each>
  static void for_blocks(int64_t size, Each each) {
    int64_t first = 0;
    for (; first + kCount <= size; first += kCount) each(first, All{});
    if (first < size) each(first, size - first);
  }

  static void to_rows(const PatchShape& shape, const void* pixels, void* rows) {
    const Stored* const from = static_cast<const Stored*>(pixels);
    Stored* const to = static_cast<Stored*>(rows);
    for_blocks(shape.columns, [&](int64_t column, auto width) {
      for_blocks(shape.count, [&](int64_t row, auto height) {
        Stored* const out = to + row * shape.row_stride + column;
        block(from + column * shape.column_stride + row, shape.column_stride, width, height,
              [&](int k, Line line) { store_first(out + k * shape.row_stride, line, width); });
      });
    });
  }

  static void to_pixels(const PatchShape& shape, const void* rows, void* pixels, bool past_caches) {
    const Stored* const from = static_cast<const Stored*>(rows);
    Stored* const to = static_cast<Stored*>(pixels);
    constexpr uintptr_t kBytes = kCount * sizeof(Stored);
    if (reinterpret_cast<uintptr_t>(to) % kBytes || shape.column_stride % kCount)
      past_caches = false;
    for_blocks(shape.columns, [&](int64_t column, auto width) {
      for_blocks(shape.count, [&](int64_t row, auto height) {
        Stored* const out = to + column * shape.column_stride + row;
        block(from + row * shape.row_stride + column, shape.row_stride, height, width,
              [&](int k, Line line) {
                Stored* const there = out + k * shape.column_stride;
                if (std::is_same_v<decltype(height), All> && past_caches)
                  store_past_caches(there, line);
                else
                  store_first(there, line, height);
              });
      });
    });
    if (past_caches) fence_stores();
  }
};

}  // namespace

PatchKernel HACE_PER_ISA(patch_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Kernel = Turn<decltype(stored)>;
    return PatchKernel{Kernel::to_rows, Kernel::to_pixels};
  });
}

}  // namespace hace
