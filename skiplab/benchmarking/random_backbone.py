"""Backbones with random weights, for random tokens: speed depends only on their shape."""

import torch

from skiplab.backbones.spec import BackboneSpec
from skiplab.engine.backbone import Backbone

PAD, BOS, EOS = 1, 0, 2
_OPT_VOCABULARY = 50272


def vocabulary(shape: BackboneSpec) -> int:
    """Size of a shape's token embedding; OPT's if the shape leaves it to the tokenizer."""
    return shape.vocabulary or _OPT_VOCABULARY


def build(shape: BackboneSpec) -> Backbone:
    """A backbone for random tokens."""
    return shape.build(vocab_size=vocabulary(shape), pad_id=PAD, bos_id=BOS, eos_id=EOS)


def seeded(shape: BackboneSpec, device: torch.device) -> Backbone:
    """A backbone whose random weights are the same at every call, and made on the device: billions take seconds there.

    The weights of a checkpoint stay on the device that it loads them to.
    """
    torch.manual_seed(0)
    with device:
        return build(shape).eval()
