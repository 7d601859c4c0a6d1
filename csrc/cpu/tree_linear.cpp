// What `hace.nn.TreeLinear` needs on the CPU beside products (hace_kernels/ops/tree_linear.py): the
// sums over nodes that are no classes. Their tree is bound once (loss_ops.h says why). Checks,
// outputs, threads; the arithmetic is in tree_linear_kernel.cpp and tree_sum_kernel.cpp.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../loss_ops.h"
#include "isa.h"
#include "new_tensor.h"
#include "tree_arguments.h"
#include "tree_linear_kernel.h"
#include "tree_sum_kernel.h"

namespace hace {
namespace {

// A tree whose nodes from `first_class` on are its classes in label order, and leaves; all others
// come before them or after them. Checked once.
struct ClassRows {
  std::vector<Tensor> tensors;  // keep the memory of `tree`
  Tree tree;
  int64_t first_class;
  int64_t num_inner_nodes;
  int64_t first_inner;
  std::vector<int32_t> node_at;  // the node of each place or -1

  explicit ClassRows(Arguments& arguments)
      : tensors(arguments.next<std::vector<Tensor>>()),
        tree(tree_of(tensors)),
        first_class(arguments.next<int64_t>()),
        num_inner_nodes(tree.num_nodes - tree.num_classes),
        first_inner(first_class == 0 ? tree.num_classes : 0),
        node_at(tree.num_places(), -1) {
    STD_TORCH_CHECK(first_class == 0 || (first_class == num_inner_nodes && first_class > 0),
                    "classes must be the first nodes or the last ones, got ", first_class);
    for (int64_t c = 0; c < tree.num_classes; ++c)
      STD_TORCH_CHECK(tree.place[first_class + c] == c, "node ", first_class + c,
                      " is not the leaf of class ", c);
    for (int64_t node = 0; node < tree.num_nodes; ++node)
      if (tree.place[node] >= 0) node_at[tree.place[node]] = static_cast<int32_t>(node);
  }
};

TreeLinearProblem problem_of(const char* op, const Tensor& values, const ClassRows& classes,
                             int64_t width) {
  check_rows(op, values);
  STD_TORCH_CHECK(values.size(1) == width, op, ": values must have ", width, " columns, got ",
                  values.size(1));
  const Element element = element_of(values);
  HACE_CHECK_TYPE(element == Element::kFloat32 || element == Element::kFloat64, op,
                  ": values must be float32 or float64");
  TreeLinearProblem problem = {};
  problem.tree = classes.tree;
  problem.first_inner = classes.first_inner;
  problem.num_inner_nodes = classes.num_inner_nodes;
  return problem;
}

template <typename Run>
void for_rows(const TreeLinearProblem& problem, const Tensor& values, Run run) {
  const TreeLinearKernel kernel = HACE_BEST_KERNEL(tree_linear_kernel, element_of(values));
  const int64_t grain =
      std::max<int64_t>(1, 32768 / std::max<int64_t>(problem.tree.num_classes, 1));
  parallel_for(0, values.size(0), grain, [&](int64_t first, int64_t last) {
    run(kernel, first, last, thread_lines.get(kernel.num_bytes(problem.tree)));
  });
}

char* entry(const Tensor& rows, int64_t column) {
  return static_cast<char*>(const_cast<void*>(rows.const_data_ptr())) +
         column * static_cast<int64_t>(rows.element_size());
}

// The rows' numbers of all nodes.
void set_nodes(TreeLinearProblem& problem, const Tensor& nodes, const ClassRows& classes) {
  problem.own = entry(nodes, classes.first_class);
  problem.inner = entry(nodes, problem.first_inner);
  problem.own_stride = problem.inner_stride = nodes.stride(0);
}

Tensor hand_down(TreeLinearProblem problem, const Tensor& values) {
  Tensor out = new_tensor({values.size(0), problem.tree.num_classes}, values.scalar_type());
  problem.columns = out.mutable_data_ptr();
  problem.column_stride = problem.tree.num_classes;
  for_rows(problem, values,
           [&](const TreeLinearKernel& kernel, int64_t first, int64_t last, void* scratch) {
             kernel.hand_down(problem, first, last, scratch);
           });
  return out;
}

void gather_up(TreeLinearProblem problem, const Tensor& values) {
  problem.columns = entry(values, 0);
  problem.column_stride = values.stride(0);
  for_rows(problem, values,
           [&](const TreeLinearKernel& kernel, int64_t first, int64_t last, void* scratch) {
             kernel.gather_up(problem, first, last, scratch);
           });
}

Tensor tree_linear_hand_down(const Tensor& values, const std::optional<Tensor>& bias,
                             const Tensor& bound) {
  const ClassRows& classes = bound_in<ClassRows>(bound);
  TreeLinearProblem problem =
      problem_of("tree_linear_hand_down", values, classes, classes.num_inner_nodes);
  problem.inner = entry(values, 0);
  problem.inner_stride = values.stride(0);
  if (bias) {
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == classes.tree.num_classes &&
                        bias->is_contiguous() && bias->scalar_type() == values.scalar_type(),
                    "tree_linear_hand_down: bias must be contiguous, one per column, and of the "
                    "values' dtype");
    problem.own = entry(*bias, 0);
  }
  return hand_down(problem, values);
}

Tensor tree_linear_gather_up(const Tensor& values, const Tensor& bound) {
  const ClassRows& classes = bound_in<ClassRows>(bound);
  TreeLinearProblem problem =
      problem_of("tree_linear_gather_up", values, classes, classes.tree.num_classes);
  Tensor out = new_tensor({values.size(0), classes.num_inner_nodes}, values.scalar_type());
  problem.inner = out.mutable_data_ptr();
  problem.inner_stride = classes.num_inner_nodes;
  gather_up(problem, values);
  return out;
}

Tensor tree_linear_nodes_down(const Tensor& values, const Tensor& bound) {
  const ClassRows& classes = bound_in<ClassRows>(bound);
  TreeLinearProblem problem =
      problem_of("tree_linear_nodes_down", values, classes, classes.tree.num_nodes);
  set_nodes(problem, values, classes);
  return hand_down(problem, values);
}

Tensor tree_linear_nodes_up(const Tensor& values, const Tensor& bound) {
  const ClassRows& classes = bound_in<ClassRows>(bound);
  TreeLinearProblem problem =
      problem_of("tree_linear_nodes_up", values, classes, classes.tree.num_classes);
  Tensor out = new_tensor({values.size(0), classes.tree.num_nodes}, values.scalar_type());
  set_nodes(problem, out, classes);
  gather_up(problem, values);
  return out;
}

// Fills the vectors (N, F) of inner nodes with the sums of those of the classes below them.
void tree_linear_vectors_up(const Tensor& vectors, const Tensor& bound) {
  const ClassRows& classes = bound_in<ClassRows>(bound);
  const Tree& tree = classes.tree;
  STD_TORCH_CHECK(
      vectors.dim() == 2 && vectors.is_contiguous() && vectors.size(0) == tree.num_nodes,
      "tree_linear_vectors_up: vectors must be contiguous, one per node");
  TreeSumProblem problem = {};
  problem.tree = tree;
  problem.values = entry(vectors, classes.first_class * vectors.size(1));
  problem.stride = problem.num_rows = vectors.size(1);
  problem.side_by_side = problem.columns_in_place = true;
  problem.node_at = classes.node_at.data();
  problem.sums = entry(vectors, 0);
  const TreeSumKernel kernel = HACE_BEST_KERNEL(tree_sum_kernel, element_of(vectors), true);
  for_blocks(
      problem.num_rows, kernel.block_rows, tree.num_inner * kernel.line_bytes,
      [&](int64_t first, int64_t count, void* lines) { kernel.up(problem, first, count, lines); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hace_kernels, CPU, m) {
  m.impl("tree_linear_bind", &boxed_bind<ClassRows>);
  m.impl("tree_linear_hand_down", TORCH_BOX(&tree_linear_hand_down));
  m.impl("tree_linear_gather_up", TORCH_BOX(&tree_linear_gather_up));
  m.impl("tree_linear_vectors_up", TORCH_BOX(&tree_linear_vectors_up));
  m.impl("tree_linear_nodes_down", TORCH_BOX(&tree_linear_nodes_down));
  m.impl("tree_linear_nodes_up", TORCH_BOX(&tree_linear_nodes_up));
}

}  // namespace hace
