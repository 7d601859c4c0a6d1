// Prints how many rows a launch of `path_log_loss` takes of a batch, whose size is the argument.
#include <cstdio>
#include <cstdlib>

#include "path_log_loss.cuh"

int main(int, char** arguments) {
  (void)&hace::weigh_kernel;  // a kernel that is not called here
  hace::PathLogLossProblem<float> problem = {};
  problem.columns = 2;
  problem.num_rows = std::atoll(arguments[1]);
  const auto plan = hace::plan_path_log_loss(problem, hace::device_of(0, nullptr));
  std::printf("%lld\n", static_cast<long long>(plan.rows_at_once));
  return 0;
}
