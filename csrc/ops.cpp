// The schemas of all ops. Each op's kernels are in the file of its name in cpu/ and cuda/; fake
// kernels and autograd are in hace_kernels/ops.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hace_kernels, m) {
  // loss: scalar, or (B,) with reduction 0; reduction: 0 none, 1 mean, 2 sum.
  // grad_logits: d loss / d logits for an incoming gradient of 1, or (0,) unless with_grad.
  m.def(
      "path_log_loss(Tensor logits, Tensor target, Tensor ptr, Tensor start, Tensor stop, "
      "Tensor weight, Tensor? order, Tensor? target_weight, int ignore_index, int reduction, "
      "float eps, bool with_grad) -> (Tensor loss, Tensor grad_logits)");
  // The gradient for any incoming one, computed anew from the logits.
  m.def(
      "path_log_loss_backward(Tensor grad_loss, Tensor logits, Tensor target, Tensor ptr, "
      "Tensor start, Tensor stop, Tensor weight, Tensor? order, Tensor? target_weight, "
      "int ignore_index, int reduction, float eps) -> Tensor");
}
