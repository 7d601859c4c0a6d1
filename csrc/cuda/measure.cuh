// The log-loss at the places of a row.
#pragma once

#include "log_sums.cuh"

namespace hace {

// Adds up the losses at one place after the other, and the mass that pulls.
template <typename Real>
struct Measure {
  LogSum<Real> row;
  Real eps;
  double loss = 0, total = 0;

  __device__ __forceinline__ Real probability(LogSum<Real> below) const {
    return exp_of_difference(below.max, row.max) * (below.sum / row.sum);
  }

  // The part of mass q on a place of probability p that still pulls with eps.
  __device__ __forceinline__ Real faded(Real q, Real p) const { return q * (p / (p + eps)); }

  // Adds mass q at a place of log-sum `below`, and returns what of it pulls; 0 log 0 is 0.
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
