// Sums of exponentials that neither overflow nor underflow.
#pragma once

#include <cmath>

namespace hace {

// sum * exp(max); 0 when sum is 0.
struct LogSum {
  double max;
  double sum;
};

inline LogSum merge(LogSum a, LogSum b) {
  if (a.sum == 0) return b;
  if (b.sum == 0) return a;
  if (a.max == b.max) return {a.max, a.sum + b.sum};
  if (a.max < b.max) return {b.max, a.sum * std::exp(a.max - b.max) + b.sum};
  return {a.max, a.sum + b.sum * std::exp(b.max - a.max)};
}

// a / b; infinite where a double cannot hold it.
inline double ratio(LogSum a, LogSum b) {
  const double sums = a.sum / b.sum;
  return a.max == b.max || a.sum == 0 ? sums : sums * std::exp(a.max - b.max);
}

// log(1 + a / b), where `quotient` is ratio(a, b).
inline double log_one_plus_ratio(LogSum a, LogSum b, double quotient) {
  if (!(quotient < 1e300)) return (a.max - b.max) + std::log(a.sum / b.sum);
  // log(1 + q) without log1p, which takes several times as long: q / (u - 1) corrects for the
  // rounding of 1 + q to u.
  const double u = 1 + quotient;
  return u == 1 ? quotient : std::log(u) * (quotient / (u - 1));
}

}  // namespace hace
