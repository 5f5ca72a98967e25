"""Backbones and prompts small enough for tests."""

import random

import torch
from torch import Tensor

from skiplab.backbones.shapes import LlamaSpec, OPTSpec, Shape
from skiplab.engine.backbone import Backbone
from skiplab.engine.policy import (
    AdaptivePolicy,
    BatchPolicy,
    ExitPolicy,
    FullDepth,
    Head,
    PromptPlanned,
    Propagation,
)
from skiplab.schedules.exit_schedule import LayerPlan
from skiplab.schedules.prompt_spec import PromptSpec

VOCABULARY, PAD, BOS, EOS = 48, 0, 1, 2
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

LAYOUTS: dict[str, Shape] = {
    "pre_norm": OPTSpec(num_layers=6, hidden_size=24, num_heads=3, max_positions=64, init_std=0.3),
    "post_norm": OPTSpec(
        num_layers=6, hidden_size=24, num_heads=3, max_positions=64, init_std=0.3, embed_size=16, pre_norm=False
    ),
    # Grouped key/value heads, rotary positions.
    "llama": LlamaSpec(num_layers=6, hidden_size=24, num_heads=6, num_kv_heads=3, max_positions=64, init_std=0.3),
}


def tiny_backbone(layout: str = "pre_norm", seed: int = 0) -> Backbone:
    """A backbone with random weights, so large that greedy outputs vary; biases and norms are random too."""
    torch.manual_seed(seed)
    backbone = LAYOUTS[layout].build(vocab_size=VOCABULARY, pad_id=PAD, bos_id=BOS, eos_id=EOS).eval()
    with torch.no_grad():
        # Otherwise padding has zero keys in Llama's first layer, and could not be told from unwritten cache slots.
        if layout == "llama":
            backbone.model.get_parameter("model.embed_tokens.weight")[PAD].normal_(std=0.3)
        for parameter in backbone.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def prompts(count: int, seed: int = 0, longest: int = 9) -> list[list[int]]:
    """Prompts of different lengths, without special tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def prompt_policies(decoding: ExitPolicy) -> dict[str, ExitPolicy]:
    """Prompt plans of every form before the decode steps of a policy with six layers."""
    specs = (
        PromptSpec(form="decay"),
        PromptSpec(form="decay", start=0.25, end=0.5),
        PromptSpec(form="ends", from_layer=3, last=2),
        PromptSpec(form="ends", from_layer=2, first=1, last=3),
        PromptSpec(form="project", from_layer=2),
        PromptSpec(form="project", from_layer=3, first=2, last=2),
    )
    return {str(spec): PromptPlanned(decoding, spec.plan(6, decoding.plan(1))) for spec in specs}


class CoordinateExit(AdaptivePolicy):
    """Rows exit if the first coordinate of their state exceeds a bound; the engine treats it like any confidence."""

    on_device = True

    def __init__(
        self,
        bound: float,
        *,
        batch_policy: BatchPolicy = "freeze",
        propagation: Propagation = "lazy",
        planned: ExitPolicy | None = None,
    ) -> None:
        super().__init__(range(5), batch_policy=batch_policy, propagation=propagation)
        self._bound = bound
        self._planned = planned or FullDepth(6)

    def plan(self, step: int) -> LayerPlan:
        return self._planned.plan(step)

    def exits(self, h_BD: Tensor, below_BD: Tensor, *, layer: int, step_B: Tensor, head: Head) -> Tensor:
        return h_BD[:, 0] > self._bound
