"""Pure loss functions.

Shapes: B rows, G generated columns, D hidden size, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

from skiplab.engine.batch import IGNORE


def token_loss(logits_BGV: Tensor, target_BG: Tensor) -> Tensor:
    """Mean cross entropy over generated tokens, in nats."""
    return F.cross_entropy(logits_BGV.flatten(0, 1), target_BG.flatten(), ignore_index=IGNORE)


def divergence(logits_BGV: Tensor, teacher_BGV: Tensor, target_BG: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean over generated tokens of KL(teacher || student) at a temperature, times its square, in nats.

    Source: Hinton et al., arXiv 1503.02531, section 2.
    """
    real = target_BG != IGNORE
    student_NV = (logits_BGV[real] / temperature).log_softmax(-1)
    teacher_NV = (teacher_BGV[real].to(student_NV.dtype) / temperature).log_softmax(-1)
    return F.kl_div(student_NV, teacher_NV, reduction="batchmean", log_target=True) * temperature**2


def state_distance(h_BGD: Tensor, teacher_BGD: Tensor, target_BG: Tensor) -> Tensor:
    """Squared distance of generated tokens' states from the teacher's, relative to the teacher's mean square."""
    real = target_BG != IGNORE
    teacher_ND = teacher_BGD[real].to(h_BGD.dtype)
    return F.mse_loss(h_BGD[real], teacher_ND) / teacher_ND.square().mean()
