// The log-loss at places, one after the other.
#pragma once

#include "log_sums.cuh"

namespace hace {

// The loss at one place after the other: adds it up with the mass that pulls, which it returns.
template <typename Real>
struct Measure {
  LogSum<Real> row;
  Real eps;
  double loss = 0, total = 0;

  __device__ __forceinline__ Real probability(LogSum<Real> below) const {
    return exp_of(below.max - row.max) * (below.sum / row.sum);
  }

  // What of mass q on a place of probability p still pulls with eps.
  __device__ __forceinline__ Real faded(Real q, Real p) const { return q * (p / (p + eps)); }

  // q at a place of log-sum `below`; 0 log 0 is 0.
  __device__ __forceinline__ Real add(Real q, LogSum<Real> below) {
    if (q == 0) return 0;
    if (eps > 0) {
      const Real p = probability(below);
      loss -= q * log_of(p + eps);
      q = faded(q, p);
    } else {
      const Real log_total = below.sum == 1 ? Real(0) : log_of(below.sum);
      loss -= q * ((below.max - row.max) + log_total);
    }
    total += q;
    return q;
  }
};

}  // namespace hace
