// The kernels of `dag_log_loss` for one instruction set (HACE_ISA names it): exponentials and their
// sums by piece, and the gradient from a factor per piece. The derivation is in dag_log_loss.cpp.
//
// Bytes of a row: the logits are read once and the gradient is written once; the exponentials wait
// in the second-level cache.

#include "dag_log_loss_kernel.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "per_isa.h"
#include "row_loops.h"

namespace hace {
namespace {

constexpr Soon kNothingSoon = {nullptr, nullptr};

template <typename Stored>
struct Row {
  using Real = work_t<Stored>;

  static void measure(const DagRow& row, double* max, double* sum) {
    Real* const exps = static_cast<Real*>(row.exps);
    const Stored* const logits = static_cast<const Stored*>(row.logits);
    if (!row.order) return measure(row, logits, exps, max, sum);
    for (int64_t p = 0; p < row.num_columns; ++p) exps[p] = to_real(logits[row.order[p]]);
    measure(row, exps, exps, max, sum);
  }

  static void write(const DagRow& row, const double* factor, const double* offset, void* grad) {
    Real* const exps = static_cast<Real*>(row.exps);
    Stored* const to = static_cast<Stored*>(grad);
    for (int64_t i = 0; i < row.num_pieces; ++i) {
      const int64_t first = row.bound[i], size = row.bound[i + 1] - first;
      const Real f = static_cast<Real>(factor[i]), o = static_cast<Real>(offset[i]);
      if (row.order)
        scale(exps + first, size, f, o, exps + first, false);
      else
        scale(exps + first, size, f, o, to + first, false);
    }
    if (!row.order) return;
    for (int64_t p = 0; p < row.num_columns; ++p) put(exps[p], to + row.order[p]);
  }

 private:
  static Real to_real(Stored value) {
    if constexpr (std::is_same_v<Stored, Real>)
      return value;
    else
      return load_first(&value, 1)[0];
  }

  static void put(Real value, Stored* to) {
    if constexpr (std::is_same_v<Stored, Real>)
      *to = value;
    else
      store_first(to, broadcast(value), 1);
  }

  template <typename Source>
  static void measure(const DagRow& row, const Source* z, Real* exps, double* max, double* sum) {
    constexpr Real kLowest = -std::numeric_limits<Real>::infinity();
    for (int64_t i = 0; i < row.num_pieces; ++i) {
      const int64_t first = row.bound[i], size = row.bound[i + 1] - first;
      if (size <= Lanes<Real>::kCount) {  // most are
        const Vector<Real> x = first_lanes<Real>(load_first(z + first, size), size, kLowest);
        const Real top = horizontal_max<Real>(x);
        const Vector<Real> e = exp_nonpositive(x - (top == kLowest ? Real(0) : top));
        store_first(exps + first, e, size);
        max[i] = top;
        sum[i] = horizontal_sum<Real>(first_lanes<Real>(e, size, 0));
        continue;
      }
      const Real top = max_of<Real>(z + first, size);
      Piece piece = {};
      exp_and_sum<true, false>(z + first, size, top == kLowest ? Real(0) : top, exps + first,
                               kNothingSoon, piece);
      max[i] = top;
      sum[i] = piece.sum;
    }
  }
};

}  // namespace

DagLogLossKernel HACE_PER_ISA(dag_log_loss_kernel_)(Element element) {
  return for_element(element, [](auto stored) {
    using Kernel = Row<decltype(stored)>;
    return DagLogLossKernel{sizeof(typename Kernel::Real), Kernel::measure, Kernel::write};
  });
}

}  // namespace hace
