// The schemas of all ops. Each op's kernels are in the file of its name in cpu/ and cuda/; fake
// kernels and autograd are in hace_kernels/ops/.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hace_kernels, m) {
  // loss: scalar, or (B,) with reduction 0; reduction: 0 none, 1 mean, 2 sum.
  // grad_logits: d loss / d logits for an incoming gradient of 1, or (0,) unless with_grad.
  // max_entries: of the longest path in the table; a GPU's kernels cannot wait for ptr to tell it.
  m.def(
      "path_log_loss(Tensor logits, Tensor target, Tensor ptr, Tensor start, Tensor stop, "
      "Tensor weight, Tensor? order, int max_entries, Tensor? target_weight, float entropy, "
      "int ignore_index, int reduction, float eps, bool with_grad) -> (Tensor loss, "
      "Tensor grad_logits)");
  // The gradient for any incoming one, computed anew from the logits.
  m.def(
      "path_log_loss_backward(Tensor grad_loss, Tensor logits, Tensor target, Tensor ptr, "
      "Tensor start, Tensor stop, Tensor weight, Tensor? order, int max_entries, "
      "Tensor? target_weight, float entropy, int ignore_index, int reduction, float eps) "
      "-> Tensor");

  // The stages of path_log_loss on a tile of columns (rows, T), whose first is class position
  // `first`. start, stop: (rows, K), the rows' nested intervals, innermost first. Rings: (rows,
  // K+1).
  m.def(
      "path_measure(Tensor logits, Tensor start, Tensor stop, int first, Tensor(a!) ring_max, "
      "Tensor(b!) ring_sum, Tensor(c!)? ring_moment) -> ()");
  // grad may be logits itself.
  m.def(
      "path_write(Tensor logits, Tensor start, Tensor stop, int first, Tensor shift, "
      "Tensor factor, Tensor offset, Tensor? slope, Tensor? middle, Tensor(a!) grad) -> ()");

  // tree: [place, parent, child_ptr, child, num_columns] and level_ptr, of a TreeTable.
  // targets: [place, keep, unit, share]; these, weight, spread and row_spread are a TargetTable;
  // soft_labels: [] or [log_similarity, is_class, apart]. Targets are either mass (B, T) or index
  // (B, K), with weights unless they count 1 and the rows as their targets say.
  m.def(
      "tree_log_loss(Tensor logits, Tensor? mass, Tensor? index, Tensor? index_weight, "
      "Tensor[] tree, int[] level_ptr, Tensor[] targets, Tensor? weight, Tensor? spread, "
      "float row_spread, Tensor[] soft_labels, int ignore_index, int reduction, float eps, "
      "bool with_grad) -> (Tensor loss, Tensor grad_logits)");
  m.def(
      "tree_log_loss_backward(Tensor grad_loss, Tensor logits, Tensor? mass, Tensor? index, "
      "Tensor? index_weight, Tensor[] tree, int[] level_ptr, Tensor[] targets, Tensor? weight, "
      "Tensor? spread, float row_spread, Tensor[] soft_labels, int ignore_index, int reduction, "
      "float eps) -> Tensor");

  // (B, C) to (B, N), and the gradient of the logits.
  m.def("tree_log_prob(Tensor logits, Tensor[] tree, int[] level_ptr) -> Tensor");
  m.def(
      "tree_log_prob_backward(Tensor grad_log_prob, Tensor logits, Tensor[] tree, "
      "int[] level_ptr) -> Tensor");

  // (B, C) to (B, N) and back; each is the other's transpose.
  m.def("tree_sum_up(Tensor values, Tensor[] tree, int[] level_ptr) -> Tensor");
  m.def("tree_sum_down(Tensor values, Tensor[] tree, int[] level_ptr) -> Tensor");

  // grad *= factor, one number on grad's device; costs little where it is 1. CUDA only.
  m.def("scale_in_place(Tensor(a!) grad, Tensor factor) -> ()");
}
