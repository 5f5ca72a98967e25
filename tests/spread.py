"""Distributed trainings, and the work of each rank in the tests of several processes."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch

from baselines.multi_layer import MultiLayerExit
from baselines.shallow import Shallow
from skiplab.backbones.shapes import OPTSpec
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import group_by_prompt
from skiplab.engine.policy import Planned
from skiplab.evaluation.generate import generate, generate_hf, perplexity
from skiplab.jobs.scaling import scaling
from skiplab.methods.base import ExitModule, Setup
from skiplab.methods.full import Full
from skiplab.methods.skipdecode import SkipDecode
from skiplab.training.trainer import TrainerSpec, train
from skiplab.training.upkeep import Upkeep
from skiplab.training.weights import load_or_train
from skiplab.utils import launch
from skiplab.utils.distributed import Ranks
from tests.comparison.small import small_config

# With 65 examples, the last of five steps has only one.
SPEC = TrainerSpec(max_epochs=2, batch_size=16, learning_rate=3e-3)
SHAPE = OPTSpec(num_layers=4, hidden_size=16, num_heads=2, max_positions=128, init_std=0.1)
METHODS: dict[str, Callable[[Setup], ExitModule]] = {
    "full": Full,
    "skipdecode": lambda setup: SkipDecode(setup, speedup=1.5),
    "distilled": lambda setup: SkipDecode(setup, speedup=1.5, distill={"logits": 1.0}),
    "every_layer": lambda setup: MultiLayerExit(setup, speedup=1.5),
    "shallow": lambda setup: Shallow(setup, speedup=2),
}
SPREADS: dict[str, dict[str, Any]] = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "ddp_parts": {"strategy": "ddp", "accumulate": 2},
    "fsdp_parts": {"strategy": "fsdp", "accumulate": 2, "gradient_checkpointing": True},
    "ddp_mixed": {"strategy": "ddp", "precision": "bf16-mixed"},
    "fsdp_mixed": {"strategy": "fsdp", "precision": "bf16-mixed"},
}
RUNS = [
    ("full", "ddp"), ("shallow", "ddp"), ("distilled", "ddp_parts"), ("skipdecode", "ddp_mixed"),
    ("full", "fsdp"), ("every_layer", "fsdp_parts"), ("skipdecode", "fsdp_mixed"),
]  # fmt: skip


PATIENCE = timedelta(seconds=4)


class CutOffError(Exception):
    pass


@cache
def data() -> TextData:
    return TextData(Restaurants(train_size=65, valid_size=40, test_size=20), batch_size=16, max_new_tokens=64)


def backbone(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    ids = {"pad_id": data().pad_id, "bos_id": data().bos_id, "eos_id": data().eos_id}
    return SHAPE.build(vocab_size=len(data().tokenizer), **ids)


def curve(
    method: str,
    spec: TrainerSpec,
    folder: Path,
    ranks: Ranks,
    *,
    cut_at: int | None = None,
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Loss of each step and after each epoch; the weights are kept in `folder/weights`.

    Args:
        cut_at: optimizer step after which the training is interrupted.
        found: filled with the curve during the training.
    """
    found = {} if found is None else found
    found |= {"train": {}, "valid": []}
    model = backbone()
    module = METHODS[method](Setup(model, [20, 25, 30], spec.optimization, teacher=backbone(seed=1).eval()))

    def after_part(*_: Any) -> None:
        step = module.trainer.global_step
        # Skip the parts of a gradient accumulation before the optimizer step.
        if step and str(step) not in found["train"]:
            found["train"][str(step)] = float(module.trainer.callback_metrics["train_loss"])
        if step == cut_at:
            raise CutOffError

    def after_validation() -> None:
        if not module.trainer.sanity_checking:
            found["valid"].append(float(module.trainer.callback_metrics["valid_loss"]))

    module.on_train_batch_end = after_part  # type: ignore[method-assign]
    module.on_validation_end = after_validation  # type: ignore[method-assign]

    # Seconds between checkpoints; there is one at the end of each epoch besides.
    every = 3600 if cut_at is None else 0

    def trained(checkpoints: Path) -> None:
        train(
            module,
            data(),
            spec,
            seed=1,
            folder=checkpoints,
            logger=None,
            upkeep=Upkeep(checkpoint_every=every),
            ranks=ranks,
        )

    load_or_train(model.model, folder / "weights", trained, ranks=ranks)
    return found


def cut_and_resumed(method: str, spec: TrainerSpec, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """The curve of a training that was interrupted in its second epoch and resumed."""
    first: dict[str, Any] = {}
    try:
        curve(method, spec, folder, ranks, cut_at=7, found=first)
    except CutOffError:
        rest = curve(method, spec, folder, ranks)
        return {"train": first["train"] | rest["train"], "valid": first["valid"] + rest["valid"]}
    raise AssertionError("the training was not cut off")


def scores(ranks: Ranks) -> dict[str, Any]:
    """The outputs of a random model on the test set in batches of 3, and its perplexity."""
    model = backbone().eval()
    policy = Planned([(0, 1, 2, 3), (0, 3)])
    outputs = generate(model, policy, data(), data().items("test"), batch_size=3, ranks=ranks)
    by_library = generate_hf(model, data(), data().items("test"), batch_size=3, ranks=ranks)
    groups = group_by_prompt(data().test_pairs, data().pad_id, size=3)
    return {
        "tokens": outputs.tokens,
        "depths": outputs.depths,
        "generate": by_library.tokens,
        "perplexity": perplexity(model, policy, groups, ranks),
    }


def failures(ranks: Ranks) -> dict[str, str]:
    """The errors that a rank gets when another rank fails."""

    def fails_at(rank: int) -> None:
        if ranks.rank == rank:
            raise CutOffError(f"rank {rank}")

    heard = {}
    for name, failing in {
        "on_first": lambda: ranks.on_first(lambda: fails_at(0)),
        "share": lambda: ranks.share(range(4), lambda _: fails_at(1)),
    }.items():
        try:
            failing()
        except CutOffError as error:
            ranks.barrier()
            heard[name] = str(error)
    return heard


def alone(ranks: Ranks) -> bool:
    """Whether a rank ends if the others never reach its barrier."""
    if ranks.is_first:
        time.sleep(2 * PATIENCE.total_seconds())
        return True
    try:
        ranks.barrier()
    except RuntimeError:
        return True
    return False


def main(folder: Path) -> None:
    """The work of a rank; the first writes `found.json`."""
    environment = launch.launcher()
    assert environment is not None
    ranks = launch.join(environment, "cpu", barrier_timeout=PATIENCE)
    spec = replace(SPEC, devices=ranks.processes)
    failed = failures(ranks)
    heard = ranks.share([0, 1], lambda _: failed)
    found: dict[str, Any] = {"scores": scores(ranks), "failures": heard}
    for method, name in RUNS:
        spread, kept = replace(spec, **SPREADS[name]), folder / f"{method}-{name}"
        found[f"{method} {name}"] = (cut_and_resumed if method == "full" else curve)(method, spread, kept, ranks)
    scaling(small_config(folder, "trainer=ddp", "steps_per_round=4", experiment="scaling"), folder / "scaling", ranks)
    ended = alone(ranks)
    found["alone"] = ranks.share([0, 1], lambda _: ended)
    if ranks.is_first:
        (folder / "found.json").write_text(json.dumps(found))
    ranks.leave()
