// The mass that the targets of one row of `tree_log_loss` put on places, before it rises.
//
// Every class gets alpha times its unit, and every target's own place gets the target's mass. alpha
// is one number per row. With soft labels it is one per ring, since it depends on the lowest common
// ancestor: at inner place v of the target's path alpha_v = alpha_parent + delta_v; elsewhere alpha
// is that of the parent.
//
// The mass of an inner place is stored with its other values. That of a column is not: `ColumnMass`
// computes it from tables that all rows share and from the row's few own columns.
#pragma once

#include "../targets.h"
#include "tree_sweeps.cuh"

namespace hace {

// ---- what all rows share ----

// The mass that is put on a place, split into what it keeps and what it hands to its parent, in the
// working type. Null where a table is not needed.
template <typename Real>
struct TargetTables {
  const Real* kept_unit;         // by column: keep * unit, if anything is put on every class
  const Real* handed_unit;       // by column: (1 - keep) * unit, likewise
  const Real* kept_share;        // by target: keep * share, for targets as mass
  const Real* handed_share;      // by target: (1 - keep) * share, likewise
  Inverse targets;               // by place, for targets as mass
  const int32_t* classes_below;  // by inner place, for soft labels
};

inline bool spreads(const Targets& targets) {
  return targets.spread || targets.row_spread != 0 || targets.log_similarity;
}

// How many values of the working type the tables take.
inline int64_t table_values(const Targets& targets, const Tree& tree) {
  return 2 * (spreads(targets) ? tree.num_classes : 0) +
         2 * (targets.mass ? targets.num_targets : 0);
}

// Splits amount[i], at place i or place[i], into kept[i] and handed[i].
template <typename Real>
__global__ void split_kernel(const double* keep, const int32_t* place, const double* amount,
                             int64_t size, Real* kept, Real* handed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const int64_t at = place ? place[i] : i;
  const double share = at < 0 ? 0 : keep[at];
  kept[i] = static_cast<Real>(share * amount[i]);
  handed[i] = static_cast<Real>((1 - share) * amount[i]);
}

template <typename Real>
inline void split(const Targets& targets, const int32_t* place, const double* amount, int64_t size,
                  Real* memory, cudaStream_t stream) {
  constexpr int kThreads = 256;
  if (size == 0) return;
  const unsigned blocks = static_cast<unsigned>((size + kThreads - 1) / kThreads);
  HACE_LAUNCH((split_kernel<Real>), dim3(blocks), dim3(kThreads), 0, stream, targets.keep, place,
              amount, size, memory, memory + size);
}

struct CountRise {
  using Part = int32_t;

  const double* is_class;  // by place
  int num_classes;
  int32_t* below;  // by inner place

  __device__ __forceinline__ Part none() const { return 0; }
  __device__ __forceinline__ void add(Part& part, int, const int32_t (&child)[kTile]) const {
    for (const int32_t c : child)
      if (c >= 0) part += c < num_classes ? is_class[c] > 0 : below[c - num_classes];
  }
  __device__ __forceinline__ void merge(Part& part, int lanes) const {
    part = group_sum(part, lanes);
  }
  __device__ __forceinline__ void end(int v, Part part) const {
    below[v] = part + (is_class[num_classes + v] > 0);
  }
};

// Counts the classes at or below every inner place. One block.
static __global__ void __launch_bounds__(kMaxRowThreads, 1)
    count_classes_kernel(Tree tree, Levels levels, const double* is_class, int32_t* below) {
  sweep_up(tree, levels, CountRise{is_class, static_cast<int>(tree.num_classes), below});
}

// Fills all tables. `memory` has room for `table_values` numbers, `classes_below` for one per inner
// place; `at` is the inverse of the targets' places if targets are mass.
template <typename Real>
inline TargetTables<Real> make_tables(const Targets& targets, const Tree& tree,
                                      const Levels& levels, Real* memory, const Inverse& at,
                                      int32_t* classes_below, cudaStream_t stream) {
  TargetTables<Real> tables = {};
  if (spreads(targets)) {
    split(targets, nullptr, targets.unit, tree.num_classes, memory, stream);
    tables.kept_unit = memory;
    tables.handed_unit = memory += tree.num_classes;
    memory += tree.num_classes;
  }
  if (targets.mass) {
    split(targets, targets.target_place, targets.share, targets.num_targets, memory, stream);
    tables.kept_share = memory;
    tables.handed_share = memory + targets.num_targets;
    tables.targets = at;
  }
  if (targets.log_similarity) {
    HACE_LAUNCH(count_classes_kernel, dim3(1), dim3(kMaxRowThreads), 0, stream, tree, levels,
                targets.is_class, classes_below);
    tables.classes_below = classes_below;
  }
  return tables;
}

// ---- a row ----

// The mass that one target of a row puts on its own place.
template <typename Real>
struct Own {
  double put;
  Real kept, handed;  // of all mass that the column has
  int32_t place;      // kNothing: no place
  int32_t column;     // kNothing: an inner place, or the column of an earlier target
};

// A row's values in its block's memory, behind one pointer, because registers are scarce. By inner
// place there are the sums, the mass and, with soft labels, alpha; then one Own per target of the
// row.
template <typename Real>
struct RowValues {
  LogSum<Real>* log_sum;  // by inner place
  int num_inner;
  bool has_alpha;

  static int64_t bytes(const Targets& targets, const Tree& tree) {
    const int64_t reals = (targets.log_similarity ? 4 : 3) * tree.num_inner;
    return (reals + reals % 2) * static_cast<int64_t>(sizeof(Real)) +
           targets.num_indices * static_cast<int64_t>(sizeof(Own<Real>));
  }

  __device__ __forceinline__ RowValues(const Targets& targets, const Tree& tree,
                                       unsigned char* memory)
      : log_sum(reinterpret_cast<LogSum<Real>*>(memory)),
        num_inner(static_cast<int>(tree.num_inner)),
        has_alpha(targets.log_similarity) {}

  __device__ __forceinline__ Real& mass(int v) const { return real(2 * num_inner + v); }
  __device__ __forceinline__ Real& alpha(int v) const { return real(3 * num_inner + v); }
  __device__ __forceinline__ Own<Real>& own(int64_t k) const {
    const int reals = (has_alpha ? 4 : 3) * num_inner;
    return reinterpret_cast<Own<Real>*>(&real(reals + reals % 2))[k];
  }

 private:
  __device__ __forceinline__ Real& real(int i) const { return reinterpret_cast<Real*>(log_sum)[i]; }
};

template <typename Real>
struct ColumnMass {
  const Targets& targets;
  const TargetTables<Real>& tables;
  const RowValues<Real>& values;
  const Real* mass;     // the row's targets; null where they are indices
  Real alpha;           // NaN if a target is not valid
  unsigned own_blocks;  // bit b: own columns may be in a block of 32 columns numbered b modulo 32

  // Whether columns other than the row's own ones have mass.
  __device__ __forceinline__ bool on_all() const { return tables.kept_unit || mass; }

  __device__ __forceinline__ Real alpha_at(int v) const {
    return values.has_alpha ? values.alpha(v) : alpha;
  }

  // The mass that column c, a child of inner place v, keeps.
  __device__ __forceinline__ Real kept(int c, int v) const {
    const Own<Real>* const own = own_at(c);
    return own ? own->kept : of_any(c, v, tables.kept_unit, tables.kept_share);
  }
  __device__ __forceinline__ Real handed(int c, int v) const {
    const Own<Real>* const own = own_at(c);
    return own ? own->handed : of_any(c, v, tables.handed_unit, tables.handed_share);
  }

 private:
  __device__ __forceinline__ const Own<Real>* own_at(int c) const {
    if (own_blocks >> (c / kWarp % kWarp) & 1)
      for (int k = 0; k < targets.num_indices; ++k)
        if (values.own(k).column == c) return &values.own(k);
    return nullptr;
  }

  __device__ __forceinline__ Real of_any(int c, int v, const Real* of_unit,
                                         const Real* of_share) const {
    Real on_c = of_unit ? alpha_at(v) * of_unit[c] : Real(0);
    if (mass) tables.targets.for_each_at(c, [&](int t) { on_c += of_share[t] * mass[t]; });
    return on_c;
  }
};

// Adds a soft label of mass `scale` to alpha along its target's path, and returns the mass that the
// target's own place gets besides. One thread.
template <typename Real>
__device__ double put_soft_label(const Tree& tree, const Targets& targets,
                                 const int32_t* classes_below, int64_t target, double scale,
                                 const RowValues<Real>& values) {
  const int num_classes = static_cast<int>(tree.num_classes);
  const int first = targets.target_place[target];
  // Similarities are relative to that of the nearest class, since all may be far away.
  const double nearest = targets.log_similarity[first];
  const auto similarity = [&](int place) {
    return place < 0 ? 0.0 : exp_of(targets.log_similarity[place] - nearest);
  };
  double all = 0;
  int inside = 0;
  for (int place = first; place >= 0; place = tree.parent[place]) {
    const int below =
        place < num_classes ? targets.is_class[place] > 0 : classes_below[place - num_classes];
    all += similarity(place) * (below - inside);
    inside = below;
  }
  scale /= all;
  double put = 0;
  double here = similarity(first);
  for (int place = first; place >= 0;) {
    const int above = tree.parent[place];
    const double further = similarity(above);
    const double delta = scale * (here - further);
    if (place >= num_classes)
      values.alpha(place - num_classes) += static_cast<Real>(delta);
    else
      put += delta * targets.unit[place];
    place = above;
    here = further;
  }
  return put;
}

// Puts the row's mass on the inner places, and returns the mass of the columns.
template <typename Real>
__device__ __forceinline__ ColumnMass<Real> put_targets(const Tree& tree, const Levels& levels,
                                                        const Targets& targets,
                                                        const TargetTables<Real>& tables,
                                                        const RowValues<Real>& values,
                                                        int64_t row) {
  const int num_classes = static_cast<int>(tree.num_classes);
  const int num_inner = static_cast<int>(tree.num_inner);
  const int num_own = static_cast<int>(targets.num_indices);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  ColumnMass<Real> columns{targets, tables, values, nullptr, 0, 0};

  // What every class gets, and which targets are valid.
  double on_every_class = 0;
  if (!targets.mass) {
    for (int k = first; k < num_own; k += step) {
      const int64_t at = row * targets.num_indices + k;
      const int64_t target = targets.index[at];
      const double weight = targets.index_weight ? targets.index_weight[at] : 1;
      Own<Real>& own = values.own(k);
      own.place = kNothing;
      if (target == targets.ignore_index) continue;
      const bool valid = target >= 0 && target < targets.num_targets;
      const int32_t place = valid ? targets.target_place[target] : kNothing;
      if (place < 0) on_every_class = not_a_number<double>();
      if (place < 0 || weight == 0) continue;
      own.place = place;
      own.put = weight * targets.share[target];
      if (targets.spread) on_every_class += weight * targets.spread[target];
    }
  } else {
    columns.mass = static_cast<const Real*>(targets.mass) + row * targets.mass_stride;
    if (targets.spread || *tables.targets.lost != kNothing)
      for (int64_t t = first; t < targets.num_targets; t += step) {
        const Real on_t = columns.mass[t];
        if (on_t != 0 && targets.target_place[t] < 0) on_every_class = not_a_number<double>();
        if (targets.spread) on_every_class += on_t * targets.spread[t];
      }
  }
  on_every_class = targets.row_spread + block_sum(on_every_class);
  columns.alpha = static_cast<Real>(on_every_class);
  const auto alpha_at = [&](int v) -> double {
    return values.has_alpha ? values.alpha(v) : on_every_class;
  };

  if (values.has_alpha) {
    for (int v = first; v < num_inner; v += step) values.alpha(v) = 0;
    __syncthreads();
    for (int k = 0; k < num_own && first == 0; ++k) {
      Own<Real>& own = values.own(k);
      if (own.place >= 0)
        own.put = put_soft_label(tree, targets, tables.classes_below,
                                 targets.index[row * targets.num_indices + k], own.put, values);
    }
    if (first == 0) values.alpha(num_inner - 1) += columns.alpha;
    sweep_down(tree, levels, [&](int v, int above) { values.alpha(v) += values.alpha(above); });
  }

  for (int v = first; v < num_inner; v += step) {
    const int place = num_classes + v;
    double on_v = tables.kept_unit ? alpha_at(v) * targets.unit[place] : 0;
    if (columns.mass)
      tables.targets.for_each_at(place, [&](int t) { on_v += targets.share[t] * columns.mass[t]; });
    values.mass(v) = static_cast<Real>(on_v);
  }
  if (num_own == 0) return columns;
  __syncthreads();

  // The targets' own places. Masses at the same place are added up before rounding.
  for (int k = first; k < num_own; k += step) {
    Own<Real>& own = values.own(k);
    const int place = own.place;
    bool is_first = place >= 0;
    for (int j = 0; j < k && is_first; ++j) is_first = values.own(j).place != place;
    own.column = kNothing;
    if (!is_first) continue;
    double put = own.put;
    for (int j = k + 1; j < num_own; ++j)
      if (values.own(j).place == place) put += values.own(j).put;
    const int v = (place < num_classes ? tree.parent[place] : place) - num_classes;
    if (tables.kept_unit) put += rounded_product(alpha_at(v), targets.unit[place]);
    if (place < num_classes) {
      own.column = place;
      own.kept = static_cast<Real>(targets.keep[place] * put);
      own.handed = static_cast<Real>((1 - targets.keep[place]) * put);
    } else {
      values.mass(v) = static_cast<Real>(put);
    }
  }
  __syncthreads();
  for (int k = 0; k < num_own; ++k) {
    const int32_t c = values.own(k).column;
    if (c >= 0) columns.own_blocks |= 1u << (c / kWarp % kWarp);
  }
  return columns;
}

}  // namespace hace
