"""Loss functions, against values computed by hand."""

import math

import pytest
import torch

from skiplab.engine.batch import IGNORE
from skiplab.methods.losses import divergence, state_distance, token_loss


def test_token_loss_counts_generated_tokens_only() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = math.log(5)
    target = torch.tensor([[2, 1, IGNORE]])
    # Probabilities 5/8 and 1/4.
    assert float(token_loss(logits, target)) == pytest.approx((math.log(8 / 5) + math.log(4)) / 2)


def test_divergence_is_the_kl_from_the_teacher() -> None:
    # Teacher 1/2, 1/4, 1/4 and 1/3 each; student 1/4, 1/4, 1/2 and the teacher's; the third token is padding.
    teacher = torch.tensor([[[2.0, 1.0, 1.0], [1.0, 1.0, 1.0], [9.0, 1.0, 1.0]]]).log() + 0.7
    student = torch.tensor([[[1.0, 1.0, 2.0], [5.0, 5.0, 5.0], [1.0, 9.0, 1.0]]]).log()
    target = torch.tensor([[0, 2, IGNORE]])
    first = 1 / 2 * math.log(2) + 1 / 4 * math.log(1) + 1 / 4 * math.log(1 / 2)
    assert float(divergence(student, teacher, target)) == pytest.approx((first + 0) / 2)


def test_divergence_at_a_temperature_uses_softened_logits_and_its_square() -> None:
    teacher, student = torch.tensor([[[math.log(16), 0.0]]]), torch.tensor([[[0.0, math.log(81)]]])
    # At temperature 2 the odds are 4 to 1 and 1 to 9.
    kl = 4 / 5 * math.log((4 / 5) / (1 / 10)) + 1 / 5 * math.log((1 / 5) / (9 / 10))
    assert float(divergence(student, teacher, torch.tensor([[1]]), temperature=2)) == pytest.approx(4 * kl)


def test_state_distance_is_relative_to_the_teacher() -> None:
    teacher = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [7.0, 7.0]]])
    student = torch.tensor([[[3.0, 2.0], [0.0, 2.0], [0.0, 0.0]]])
    target = torch.tensor([[5, 6, IGNORE]])
    # Squared distances 4 and 1 + 4 against squared norms 25 and 1.
    assert float(state_distance(student, teacher, target)) == pytest.approx((4 + 5) / (25 + 1))


def test_a_student_equal_to_its_teacher_has_loss_zero() -> None:
    outputs, target = torch.randn(2, 3, 5), torch.tensor([[1, 2, 3], [4, 0, IGNORE]])
    assert float(divergence(outputs, outputs, target, temperature=3)) == pytest.approx(0, abs=1e-6)
    assert float(state_distance(outputs, outputs, target)) == 0
