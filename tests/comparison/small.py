"""A comparison small enough for tests: it takes seconds on one core."""

from pathlib import Path

from omegaconf import DictConfig

from skiplab.backbones.shapes import OPTSpec
from tests.composed import composed
from tests.store import ready_store

SIZE = (
    "backbone.num_layers=4",
    "backbone.hidden_size=16",
    "backbone.num_heads=2",
    "limit=16",
    "workers=1",
    "speedups=[1.5,2]",
    "base.max_epochs=1",
    "benchmark.rounds=2",
    "benchmark.batch_sizes=[1,4]",
    "benchmark.warmup=0",
    "benchmark.prompts=2",
)
SMALL = (*SIZE, "methods.calm.sweep.confidence=[softmax]")
SMALL_TASK = ("data.train_size=64", "data.valid_size=16", "data.test_size=16", "max_new_tokens=48")


def small_config(
    folder: Path, *overrides: str, experiment: str = "compare_calm", task: tuple[str, ...] = SMALL_TASK
) -> DictConfig:
    """The configuration as the command line makes it, with an existing tracking store and the cache in a folder."""
    store = [
        f"tracking.uri={ready_store(folder)}",
        f"tracking.experiment={experiment}",
        f"cache_dir={folder}/cache",
    ]
    size = SMALL if experiment == "compare_calm" else SIZE
    return composed(f"experiment={experiment}", *size, *task, *store, *overrides)


def tiny_shape(layers: int, width: int, heads: int, vocab_size: int) -> OPTSpec:
    """OPT's pre-norm layout at a size for tests."""
    return OPTSpec(num_layers=layers, hidden_size=width, num_heads=heads, max_positions=64, vocab_size=vocab_size)
