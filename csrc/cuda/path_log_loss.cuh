// The kernels of `path_log_loss`.
//
// docs/design.md derives the gradient that is computed here. With lse_r the log-sum-exp over
// interval r, lse_K that over the whole row, and j in ring r:
//
//   dL/dz_j = A_r exp(z_j - lse_K) - B_r exp(z_j - lse_r)
//   A_r     = sum_{i < r} w_i
//   B_r     = sum_{i >= r} w_i (1 - P_i) exp(lse_r - lse_i)
//
// A row is cut twice: into strips (strips.cuh) and, by its target's intervals, into segments
// (path.cuh). The part of segment g that is in strip s is a *piece*. Its number is s + g, which is
// different for all pieces and consecutive within a segment. The exponentials of a piece are
// relative to its own largest logit, so that nothing underflows, however far apart the logits of
// the rings are, and its gradient is one factor times these (plus a constant, in intervals without
// mass). So a strip within one segment costs the same whatever the path, and every interval's end
// in a strip costs another pass over registers, not over memory.
//
// Rows that fit in a block's registers (row_kernel) are read from memory once, and their gradient
// is written once. Longer rows are split: `measure_kernel` reads strips and stores a pair for each
// piece; `resolve_kernel`, with one block per row, turns them into the loss and the factors; and
// `write_kernel` reads the strips again, from the L2 cache if the launcher's chunk of rows fits
// there, and writes the gradient. Columns in another order are gathered from a copy of the row in
// shared memory.
//
// Bytes per row: 2 C elements, and O(K + C / 512) in shared memory or the caches.
//
// There are no atomics: the same input gives the same bits.
#pragma once

#include <algorithm>

#include "path_pieces.cuh"
#include "path_rings.cuh"
#include "rows.cuh"

namespace hace {

template <typename Stored>
struct PathLogLossProblem : LossRows<Stored> {
  int columns;

  // The path table: entries ptr[t] .. ptr[t + 1] are target t's intervals and their weights.
  const int64_t* ptr;
  const int32_t* start;
  const int32_t* stop;
  const double* weight;
  const int32_t* order;  // position -> column, or null
  int64_t num_targets;
  int max_entries;  // of the longest path

  const int64_t* target;        // (rows)
  const double* target_weight;  // (targets), or null
  int64_t ignore_index;
  double entropy;  // weight of sum_j p_j log p_j beside the log-losses
};

template <typename Real>
struct OpenRow {
  Path path;
  double weight;  // of its loss: 0 if the row does not count, NaN if its target is not valid
  Real factor;    // of its gradient
};

template <typename Stored>
__device__ OpenRow<work_t<Stored>> open_row(const PathLogLossProblem<Stored>& problem,
                                            int64_t row) {
  const int64_t target = problem.target[row];
  OpenRow<work_t<Stored>> open = {};
  open.weight = weight_of(target, problem.target_weight, problem.num_targets, problem.ignore_index);
  double factor = problem.gradient_factor(open.weight, row);
  Path& path = open.path;
  path.columns = problem.columns;
  bool valid = target >= 0 && target < problem.num_targets;
  if (valid) {
    const int64_t first = problem.ptr[target];
    path.start = problem.start + first;
    path.stop = problem.stop + first;
    path.weight = problem.weight + first;
    path.num_intervals = static_cast<int>(problem.ptr[target + 1] - first);
    valid = path.num_intervals == 0 || path.start[0] < path.stop[0];
  }
  if (!valid) {
    path.num_intervals = 0;
    if (open.weight != 0) open.weight = not_a_number<double>();
    if (factor != 0) factor = not_a_number<double>();
  }
  open.factor = static_cast<work_t<Stored>>(factor);
  return open;
}

// Fills the gradient of a row with 0 if it does not count, or NaN if its target is not valid.
template <typename Stored>
__device__ __forceinline__ void fill_row(const PathLogLossProblem<Stored>& problem, int64_t row,
                                         work_t<Stored> value, int first, int step) {
  if (!problem.grad) return;
  Stored* const grad = problem.grad + row * problem.columns;
  for (int column = first; column < problem.columns; column += step)
    grad[column] = to_stored<Stored>(value);
}

// Whether the row need not be read, because its loss is 0, or NaN if its target is not valid.
template <typename Real>
__device__ __forceinline__ bool is_idle(const OpenRow<Real>& open) {
  return open.weight == 0 || isnan(open.weight);
}

template <typename Stored>
__device__ __forceinline__ void write_loss(const PathLogLossProblem<Stored>& problem, int64_t row,
                                           double loss) {
  if (threadIdx.x == 0 && problem.row_loss)
    problem.row_loss[row] = static_cast<work_t<Stored>>(loss);
}

// The block resolves a row whose pieces have been measured.
template <bool kEntropy, typename Stored>
__device__ __forceinline__ void resolve_row(const PathLogLossProblem<Stored>& problem,
                                            int64_t index, const StripRow<Stored>& row,
                                            const OpenRow<work_t<Stored>>& open,
                                            const RowSums<work_t<Stored>>& sums) {
  using Real = work_t<Stored>;
  const Real loss =
      resolve<kEntropy>(row, open.path, sums, open.factor, static_cast<Real>(problem.entropy),
                        static_cast<Real>(problem.eps));
  write_loss(problem, index, open.weight * static_cast<double>(loss));
}

// ---- kernels ----

// Whether a thread needs more registers than the threads of most rows.
template <typename Stored>
constexpr bool is_wide(bool entropy) {
  return entropy || sizeof(work_t<Stored>) == 8;
}

// The threads of a block with so many strips per warp.
constexpr int row_threads(int strips_per_warp, bool wide) {
  return strips_per_warp == 1 || wide ? 256 : 512;
}

// How many such blocks should fit on a multiprocessor together. With 1,024 threads there each has
// 64 registers, and some values are kept in the L1 cache; on an H200 that is still faster than
// fewer threads with more registers (docs/performance.md).
template <typename Stored>
constexpr int row_blocks(int strips_per_warp, bool wide) {
  if (sizeof(work_t<Stored>) == 8 || strips_per_warp == 3) return 1;
  return (wide ? 512 : 1024) / row_threads(strips_per_warp, wide);
}

constexpr int kSplitThreads = 256;
constexpr int kSplitStrips = kSplitThreads / kWarp;  // strips of a row that a block works on

// One row per block, with at most kStrips strips per warp. Its sums are in shared memory unless
// `memory` is given; with `stages`, its columns are put in order there too.
template <typename Stored, int kStrips, bool kEntropy>
__global__ void __launch_bounds__(row_threads(kStrips, is_wide<Stored>(kEntropy)),
                                  row_blocks<Stored>(kStrips, is_wide<Stored>(kEntropy)))
    row_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory,
               bool stages) {
  using Real = work_t<Stored>;
  HACE_DYNAMIC_SHARED(Real, shared);
  const int64_t index = first_row + blockIdx.x;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory ? memory + blockIdx.x * values : shared, strips,
                           problem.max_entries);
  // The copy of the row comes after the sums, at a multiple of 16 bytes.
  const int64_t behind = memory ? 0 : (values * sizeof(Real) + kVectorBytes - 1) / kVectorBytes;
  Stored* const stage =
      reinterpret_cast<Stored*>(reinterpret_cast<char*>(shared) + behind * kVectorBytes);

  const Stored* const logits = problem.logits + index * problem.row_stride;
  const StripRow<Stored> row(logits, problem.order, stages ? stage : logits, problem.columns);
  Real x[kStrips][kPerLane];
  const auto load = [&] {
#pragma unroll
    for (int i = 0; i < kStrips; ++i) row.load(i * num_warps() + warp_index(), x[i]);
  };
  if (!stages) load();  // on its way while the path is looked up

  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) {
    fill_row(problem, index, open.factor, threadIdx.x, blockDim.x);
    write_loss(problem, index, open.weight);
    return;
  }
  if (stages) {
    for (int column = threadIdx.x; column < problem.columns; column += blockDim.x)
      stage[column] = logits[column];
    __syncthreads();
    load();
  }
#pragma unroll
  for (int i = 0; i < kStrips; ++i) {
    const int strip = i * num_warps() + warp_index();
    if (strip < row.num_strips()) measure_strip<kEntropy>(row, strip, open.path, sums, x[i]);
  }
  resolve_row<kEntropy>(problem, index, row, open, sums);

  if (!problem.grad) return;
  Stored* const grad = problem.grad + index * problem.columns;
#pragma unroll
  for (int i = 0; i < kStrips; ++i) {
    const int strip = i * num_warps() + warp_index();
    if (strip >= row.num_strips()) continue;
    differentiate_strip<kEntropy>(row, strip, open.path, sums, x[i]);
    row.store(strip, x[i], grad, stages ? stage : grad);
  }
  if (!stages) return;
  __syncthreads();
  for (int column = threadIdx.x; column < problem.columns; column += blockDim.x)
    grad[column] = stage[column];
}

template <typename Stored>
__device__ __forceinline__ StripRow<Stored> split_row(const PathLogLossProblem<Stored>& problem,
                                                      int64_t index) {
  const Stored* const logits = problem.logits + index * problem.row_stride;
  return StripRow<Stored>(logits, problem.order, logits, problem.columns);
}

// Where a block and a warp work when rows are split: the row in the chunk, and the strip.
struct SplitPlace {
  int64_t slot;
  int strip;

  __device__ explicit SplitPlace(int64_t strips) {
    const int64_t blocks = (strips + kSplitStrips - 1) / kSplitStrips;
    slot = blockIdx.x / blocks;
    strip = static_cast<int>(blockIdx.x % blocks) * kSplitStrips + warp_index();
  }
};

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    measure_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const SplitPlace place(strips);
  const int64_t index = first_row + place.slot;
  const StripRow<Stored> row = split_row(problem, index);
  if (place.strip >= row.num_strips()) return;
  Real x[kPerLane];
  row.load(place.strip, x);  // on its way while the path is looked up
  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) return;
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + place.slot * values, strips, problem.max_entries);
  measure_strip<kEntropy>(row, place.strip, open.path, sums, x);
}

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    resolve_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t index = first_row + blockIdx.x;
  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) {
    write_loss(problem, index, open.weight);
    return;
  }
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + blockIdx.x * values, strips, problem.max_entries);
  const StripRow<Stored> row = split_row(problem, index);
  resolve_row<kEntropy>(problem, index, row, open, sums);
}

template <typename Stored, bool kEntropy>
__global__ void __launch_bounds__(kSplitThreads)
    write_kernel(PathLogLossProblem<Stored> problem, int64_t first_row, work_t<Stored>* memory) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const SplitPlace place(strips);
  const int64_t index = first_row + place.slot;
  const StripRow<Stored> row = split_row(problem, index);
  if (place.strip >= row.num_strips()) return;
  Stored* const grad = problem.grad + index * problem.columns;
  Real x[kPerLane];
  row.load(place.strip, x);  // on its way while the path is looked up
  const OpenRow<Real> open = open_row(problem, index);
  if (is_idle(open)) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] = open.factor;
    row.store(place.strip, x, grad, grad);
    return;
  }
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const RowSums<Real> sums(memory + place.slot * values, strips, problem.max_entries);
  // The maxima are known; the exponentials are computed again.
  for_pieces(row, place.strip, open.path, [&](int segment, int begin, int end) {
    const Real top = finite(sums.piece(RowSums<Real>::kPieceMax, place.strip + segment));
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (row.is_in(place.strip, i, begin, end)) x[i] = kEntropy ? x[i] - top : exp_of(x[i] - top);
    }
  });
  differentiate_strip<kEntropy>(row, place.strip, open.path, sums, x);
  row.store(place.strip, x, grad, grad);
}

// ---- launches ----

// How rows are divided among blocks.
struct PathLogLossPlan {
  bool splits;            // whether a row is divided among several blocks
  int strips_per_warp;    // if it is not
  int threads;            // of a block
  bool stages;            // whether columns are put in order in shared memory
  int64_t shared_bytes;   // of a block
  int64_t rows_at_once;   // of a launch
  int64_t memory_values;  // of the working type, in device memory
};

// Up to so many bytes, a row's sums are kept in shared memory. Otherwise the rows of a launch share
// at most so much device memory.
constexpr int64_t kSumsInShared = int64_t{16} << 10;
constexpr int64_t kMemoryAtOnce = int64_t{64} << 20;

// A launch has at most so many blocks, of one row each; CUDA allows twice as many.
constexpr int64_t kMostBlocks = int64_t{1} << 30;

template <typename Stored>
PathLogLossPlan plan_path_log_loss(const PathLogLossProblem<Stored>& problem,
                                   const Device& device) {
  using Real = work_t<Stored>;
  const int64_t strips = num_strips<Stored>(problem.columns);
  const int64_t values = RowSums<Real>::num_values(strips, problem.max_entries);
  const int64_t sums_bytes = (values * static_cast<int64_t>(sizeof(Real)) + kVectorBytes - 1) /
                             kVectorBytes * kVectorBytes;
  const int64_t row_bytes = problem.columns * static_cast<int64_t>(sizeof(Stored));
  const bool wide = is_wide<Stored>(problem.entropy != 0);
  const int max_strips_per_warp = wide ? 2 : 3;

  PathLogLossPlan plan = {};
  plan.splits = strips > max_strips_per_warp * (row_threads(max_strips_per_warp, wide) / kWarp);
  plan.rows_at_once = std::clamp<int64_t>(problem.num_rows, 1, kMostBlocks);
  bool sums_in_shared = false;
  if (plan.splits) {
    plan.threads = kSplitThreads;
    plan.rows_at_once = std::max<int64_t>(1, device.l2_bytes / 2 / std::max<int64_t>(1, row_bytes));
  } else {
    plan.strips_per_warp = strips <= 8 ? 1 : wide || strips <= 32 ? 2 : 3;
    const int64_t warps = (strips + plan.strips_per_warp - 1) / plan.strips_per_warp;
    plan.threads = static_cast<int>(std::max<int64_t>(1, warps)) * kWarp;
    sums_in_shared = sums_bytes <= kSumsInShared;
    if (sums_in_shared) plan.shared_bytes = sums_bytes;
    plan.stages =
        problem.order && plan.shared_bytes + row_bytes + kStaticBytes <= device.shared_bytes;
    if (plan.stages) plan.shared_bytes += row_bytes;
  }
  if (!sums_in_shared) {
    plan.rows_at_once =
        std::min(plan.rows_at_once, std::max<int64_t>(1, kMemoryAtOnce / sums_bytes));
    plan.rows_at_once = std::min(plan.rows_at_once, std::max<int64_t>(1, problem.num_rows));
    plan.memory_values = plan.rows_at_once * values;
  }
  return plan;
}

template <bool kEntropy, typename Stored>
void launch_whole_rows(const PathLogLossProblem<Stored>& problem, const PathLogLossPlan& plan,
                       int64_t first, int64_t count, work_t<Stored>* memory, const Device& device) {
  const auto launch = [&](auto* kernel) {
    allow_shared(kernel, plan.shared_bytes, device);
    HACE_LAUNCH(kernel, dim3(static_cast<unsigned>(count)), dim3(plan.threads),
                static_cast<size_t>(plan.shared_bytes), device.stream, problem, first, memory,
                plan.stages);
  };
  if (plan.strips_per_warp == 1) return launch(&row_kernel<Stored, 1, kEntropy>);
  if (plan.strips_per_warp == 2) return launch(&row_kernel<Stored, 2, kEntropy>);
  if constexpr (!kEntropy && sizeof(work_t<Stored>) == 4) launch(&row_kernel<Stored, 3, kEntropy>);
}

template <bool kEntropy, typename Stored>
void launch_split_rows(const PathLogLossProblem<Stored>& problem, int64_t first, int64_t count,
                       work_t<Stored>* memory, cudaStream_t stream) {
  const int64_t blocks = (num_strips<Stored>(problem.columns) + kSplitStrips - 1) / kSplitStrips;
  const dim3 grid(static_cast<unsigned>(blocks * count));
  HACE_LAUNCH((measure_kernel<Stored, kEntropy>), grid, dim3(kSplitThreads), 0, stream, problem,
              first, memory);
  HACE_LAUNCH((resolve_kernel<Stored, kEntropy>), dim3(static_cast<unsigned>(count)),
              dim3(kSplitThreads), 0, stream, problem, first, memory);
  if (problem.grad)
    HACE_LAUNCH((write_kernel<Stored, kEntropy>), grid, dim3(kSplitThreads), 0, stream, problem,
                first, memory);
}

// Computes the rows' weighted losses and their gradients. `memory` has plan.memory_values entries.
template <typename Stored>
void run_path_log_loss(const PathLogLossProblem<Stored>& problem, const PathLogLossPlan& plan,
                       work_t<Stored>* memory, const Device& device) {
  const bool entropy = problem.entropy != 0;
  for (int64_t first = 0; first < problem.num_rows; first += plan.rows_at_once) {
    const int64_t count = std::min(plan.rows_at_once, problem.num_rows - first);
    if (plan.splits && entropy)
      launch_split_rows<true>(problem, first, count, memory, device.stream);
    else if (plan.splits)
      launch_split_rows<false>(problem, first, count, memory, device.stream);
    else if (entropy)
      launch_whole_rows<true>(problem, plan, first, count, memory, device);
    else
      launch_whole_rows<false>(problem, plan, first, count, memory, device);
  }
}

}  // namespace hace
