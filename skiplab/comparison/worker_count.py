"""How many processes share the settings of a comparison."""

import torch

from skiplab.comparison.prepare import Prepared
from skiplab.engine.backbone import Backbone
from skiplab.utils.machine import available_memory, physical_cores

# A process with its libraries, and per weight: model, gradient, Adam's two moments, a teacher and a copy.
_PROCESS_BYTES = 2 * 2**30
_BYTES_PER_WEIGHT = 24
# Activations per position, layer and hidden unit: measured on SmolLM2-135M.
_BYTES_PER_STATE = 160


def worker_count(prepared: Prepared) -> int:
    """The configured number, or one process per GPU, or per `threads` physical cores, as far as memory allows."""
    config = prepared.config
    if config.workers is not None:
        return config.workers
    if prepared.trainer.processes > 1:
        return 1
    if prepared.device.type == "cuda":
        return torch.cuda.device_count()
    backbone = prepared.probe().backbone
    needed = _PROCESS_BYTES + _BYTES_PER_WEIGHT * backbone.model.num_parameters() + _activations(prepared, backbone)
    return max(1, min(physical_cores() // config.threads, available_memory() // needed))


def _activations(prepared: Prepared, backbone: Backbone) -> int:
    """Bytes of the activations that a training step on the longest pairs keeps for its backward pass."""
    trainer = prepared.trainer
    rows = -(-trainer.batch_size // trainer.accumulate)
    longest = sorted(prompt + target for prompt, target in prepared.data.train_pairs.lengths)[-rows:]
    layers = 1 if trainer.gradient_checkpointing else backbone.num_layers
    return _BYTES_PER_STATE * sum(longest) * layers * backbone.hidden_size
