"""The language-model loss of states, with the logits of some of the tokens in memory at a time.

Shapes: B rows, G generated columns, N generated tokens, M their states at all exits, R of these at a time, D hidden
size, E size of what the head takes, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import IGNORE
from skiplab.methods.losses import divergence

# Logits up to which autograd keeps all of them; logits in memory at a time beyond that; logits whose softmax is taken
# at a time on a CPU, whose cache then holds them.
_SMALL = 2**21
_PART = 2**26
_BLOCK = 2**18


class Taught(NamedTuple):
    """The full model's next-token distributions, from which the divergence is part of a loss.

    Attributes:
        h_BGD: states that the teacher's head takes.
        weight: of the divergence.
        temperature: of the divergence, as in `divergence`.
        alone: whether the divergence is the whole loss, without the cross entropy of the references.
    """

    teacher: Backbone
    h_BGD: Tensor
    weight: float = 1.0
    temperature: float = 1.0
    alone: bool = False


def lm_loss(backbone: Backbone, h_BGD: Tensor, target_BG: Tensor, taught: Taught | None = None) -> Tensor:
    """Mean cross entropy of generated tokens under the head's logits of their states, in nats.

    Args:
        taught: adds the mean divergence from these distributions, times its weight, or takes its place.
    """
    return exits_loss(backbone, [h_BGD], [1.0], target_BG, taught)


def exits_loss(
    backbone: Backbone,
    states: Iterable[Tensor],
    weights: Sequence[float],
    target_BG: Tensor,
    taught: Taught | None = None,
) -> Tensor:
    """Weighted sum over exits of the mean cross entropy of generated tokens, in nats.

    Logits are computed only for real tokens. If they are many, they are processed in parts, each together with its
    share of the gradients, so that nothing is computed twice.

    Args:
        states: (B, G, D) of each exit.
        weights: of the exits; one of weight 0 costs nothing.
        taught: of an only exit, as for `lm_loss`.
    """
    real = target_BG != IGNORE
    target_N = target_BG[real]
    taken = [(weight, h_BGD[real]) for weight, h_BGD in zip(weights, states, strict=True) if weight]
    if len(taken) * len(target_N) * len(backbone.head_weight) <= _SMALL:
        return torch.stack([weight * _whole(backbone, h_ND, target_BG, taught) for weight, h_ND in taken]).sum()
    x_ME = backbone.head_input(torch.cat([h_ND for _, h_ND in taken]))
    largest = max(weight for weight, _ in taken)
    share_E = torch.tensor([weight / largest for weight, _ in taken], device=target_N.device)
    head = _Head.of(backbone, target_N.repeat(len(taken)), share_E.repeat_interleave(len(target_N)), taught, real)
    return largest / len(target_N) * _InParts.apply(x_ME, backbone.head_weight, head)  # type: ignore[no-any-return]


def _whole(backbone: Backbone, h_ND: Tensor, target_BG: Tensor, taught: Taught | None) -> Tensor:
    """The loss of one exit, with gradients by autograd."""
    real = target_BG != IGNORE
    logits_NV, target_N = backbone.head(h_ND), target_BG[real]
    if taught is None:
        return F.cross_entropy(logits_NV, target_N)
    with torch.no_grad():
        taught_NV = taught.teacher.head(taught.h_BGD[real])
    distance = taught.weight * divergence(logits_NV, taught_NV, target_N, temperature=taught.temperature)
    return distance if taught.alone else F.cross_entropy(logits_NV, target_N) + distance


class _Head(NamedTuple):
    """The inputs of the loss of all states, besides the states and the head's weight.

    Attributes:
        share_M: weights of the states' losses, at most 1, so that float16 holds their gradients.
        dtype: of the products.
        train: whether gradients are wanted.
        theirs: the teacher's head weight and what it multiplies.
    """

    target_M: Tensor
    share_M: Tensor
    dtype: torch.dtype
    train: bool
    taught: Taught | None
    theirs: tuple[Tensor, Tensor] | None

    @classmethod
    def of(
        cls, backbone: Backbone, target_M: Tensor, share_M: Tensor, taught: Taught | None, real_BG: Tensor
    ) -> "_Head":
        kind = target_M.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else backbone.head_weight.dtype
        theirs = None
        if taught is not None:
            with torch.no_grad():
                x_ME = taught.teacher.head_input(taught.h_BGD[real_BG])
            theirs = taught.teacher.head_weight.detach().to(dtype), x_ME.to(dtype)
        return cls(target_M, share_M, dtype, torch.is_grad_enabled(), taught, theirs)

    def to_gradient_(self, part: slice, logits_RV: Tensor) -> Tensor:
        """The loss of a part of the states, summed; the logits become its gradient."""
        taught_RV = None
        if self.theirs is not None:
            weight_VE, x_ME = self.theirs
            taught_RV = x_ME[part] @ weight_VE.t()
        target_R, share_R = self.target_M[part, None], self.share_M[part, None]
        on_cpu = logits_RV.device.type == "cpu"
        rows = max(1, _BLOCK // logits_RV.shape[1]) if on_cpu else len(logits_RV)
        loss = share_R.new_zeros(())
        for first in range(0, len(logits_RV), rows):
            block = slice(first, first + rows)
            block_taught_RV = None if taught_RV is None else taught_RV[block]
            gradient_RV, losses_R = self._gradient(logits_RV[block], target_R[block], block_taught_RV)
            loss += (losses_R * share_R[block]).sum()
            logits_RV[block] = gradient_RV.mul_(share_R[block])
        return loss

    def _gradient(self, logits_RV: Tensor, target_R1: Tensor, taught_RV: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradient (R, V) and value (R, 1) of each row's loss, in float32."""
        if self.taught is None or taught_RV is None:
            return _cross_entropy(logits_RV, target_R1)
        slope_RV, distance_R1 = _divergence(logits_RV, taught_RV, self.taught.temperature)
        slope_RV, distance_R1 = slope_RV.mul_(self.taught.weight), self.taught.weight * distance_R1
        if self.taught.alone:
            return slope_RV, distance_R1
        gradient_RV, loss_R1 = _cross_entropy(logits_RV, target_R1)
        return gradient_RV.add_(slope_RV), loss_R1 + distance_R1


def _cross_entropy(logits_RV: Tensor, target_R1: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (R, V) and value (R, 1) of each row's cross entropy, in float32."""
    log_RV = logits_RV.log_softmax(-1, dtype=torch.float32)
    losses_R1 = -log_RV.gather(1, target_R1)
    return log_RV.exp_().scatter_add_(1, target_R1, log_RV.new_full((), -1.0).expand_as(target_R1)), losses_R1


def _divergence(logits_RV: Tensor, taught_RV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Gradient (R, V) and value (R, 1) of each row's divergence, as in `divergence`, in float32."""
    student_RV = (logits_RV.float() / temperature).log_softmax(-1)
    teacher_RV = (taught_RV.float() / temperature).log_softmax(-1)
    distance_R1 = (teacher_RV.exp() * (teacher_RV - student_RV)).sum(-1, keepdim=True)
    return student_RV.exp_().sub_(teacher_RV.exp_()).mul_(temperature), distance_R1 * temperature**2


@final
class _InParts(torch.autograd.Function):
    """The summed loss of `x @ weight.T`; its gradients are made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, x_ME: Tensor, weight_VE: Tensor, head: _Head) -> Tensor:
        w_VE = weight_VE.to(head.dtype)
        loss = head.share_M.new_zeros(())
        x_grad_ME, w_grad_VE = torch.empty_like(x_ME), None
        trains_head = ctx.needs_input_grad[1]
        rows = max(1, _PART // len(w_VE))
        with torch.autocast(x_ME.device.type, enabled=False):
            for first in range(0, len(x_ME), rows):
                part = slice(first, first + rows)
                x_RE = x_ME[part].to(head.dtype)
                logits_RV = x_RE @ w_VE.t()
                loss += head.to_gradient_(part, logits_RV)
                if head.train:
                    x_grad_ME[part] = logits_RV @ w_VE
                if head.train and trains_head:
                    added_VE = logits_RV.t() @ x_RE
                    w_grad_VE = added_VE.to(weight_VE.dtype) if w_grad_VE is None else w_grad_VE.add_(added_VE)
        ctx.save_for_backward(x_grad_ME, w_grad_VE)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # Scaled in place: the gradient of the head's weight is as large as the weight.
        x_grad_ME, w_grad_VE = ctx.saved_tensors
        return x_grad_ME.mul_(grads[0]), None if w_grad_VE is None else w_grad_VE.mul_(grads[0]), None
