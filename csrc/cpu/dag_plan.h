// How the kernels of `dag_log_loss` add up values: the plan of hace_kernels/dag_plan.py, which says
// what the arrays mean. Without torch.
#pragma once

#include <cstdint>

namespace hace {

struct DagPlan {
  int64_t num_lines;  // of inner places and mixed nodes; slots follow
  int64_t num_slots, num_rising, num_mass_slots;
  const int32_t* slot;
  const int32_t* slot_ptr;
  const int32_t* part_line;
  const int32_t* source;
  const int32_t* line;
  const int32_t* link_ptr;
  const int32_t* link;
  const int32_t* risen_ptr;
};

}  // namespace hace
