"""A killed training resumes, and has the losses of an uninterrupted one."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.layerskip import LayerSkip
from skiplab.backbones.shapes import OPTSpec
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.methods.base import Setup
from skiplab.methods.full import Full
from skiplab.methods.once_for_all import OnceForAll
from skiplab.training.checkpoints import latest, stored
from skiplab.training.trainer import TrainerSpec, train
from skiplab.training.upkeep import Upkeep
from tests.faults.processes import KILLED, in_child, kill_self, kills_at

# Three epochs of six steps and two validation steps each. The last step of an epoch has fewer examples.
SPEC = TrainerSpec(max_epochs=3, batch_size=16, learning_rate=3e-3)
SHAPE = OPTSpec(num_layers=4, hidden_size=16, num_heads=2, max_positions=128, init_std=0.1, dropout=0.2)
STEPS, CHECKS = 6, 2
DATA = TextData(Restaurants(train_size=90, valid_size=72, test_size=8), batch_size=16, max_new_tokens=64)
METHODS = [
    (Full, {}),
    (LayerSkip, {"speedup": 1.5, "dropout": 0.2}),
    (OnceForAll, {"speedup": 1.5}),
]

Recorded = list[tuple[str, int, float]]


def training(
    home: Path,
    method: int = 0,
    *,
    every: float = 0.0,
    spec: TrainerSpec = SPEC,
    on_loss: Callable[[str, int], None] = lambda *_: None,
) -> None:
    """Train; write every loss to a file, and finally the weights."""
    kind, options = METHODS[method]
    torch.manual_seed(0)
    ids = {"pad_id": DATA.pad_id, "bos_id": DATA.bos_id, "eos_id": DATA.eos_id}
    backbone = SHAPE.build(vocab_size=len(DATA.tokenizer), **ids).train()
    module = kind(Setup(backbone, [20, 25, 30], SPEC.optimization), **options)
    seen = {"train": 0, "valid": 0}

    def loss(batch):
        part = "train" if torch.is_grad_enabled() else "valid"
        if not module.trainer.sanity_checking:
            seen[part] += 1
            on_loss(part, seen[part])
        found = kind.loss(module, batch)
        with (home / "losses.jsonl").open("a") as file:
            if not module.trainer.sanity_checking:
                file.write(json.dumps([part, module.trainer.global_step, found.item()]) + "\n")
        return found

    module.loss = loss
    train(module, DATA, spec, seed=1, folder=home / "checkpoints", logger=None, upkeep=Upkeep(checkpoint_every=every))
    torch.save(module.state_dict(), home / "weights.pt")


def losses(home: Path) -> Recorded:
    return [tuple(json.loads(line)) for line in (home / "losses.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (torch.load(home / "weights.pt", weights_only=True) for home in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of the first method."""
    return undisturbed_training(0, tmp_path_factory.mktemp("whole"))


def undisturbed_training(method: int, home: Path) -> Path:
    training(home, method, every=60.0)
    assert len(losses(home)) == 3 * (STEPS + CHECKS)
    assert not stored(home / "checkpoints"), "no checkpoint is written within a minute"
    return home


def killed_at(part: str, count: int) -> Callable[[str, int], None]:
    return lambda *at: kill_self() if at == (part, count) else None


# The first step, one in the middle of an epoch, its last, the first of the next epoch, a later one, the very last.
@pytest.mark.parametrize("count", [1, 2, 6, 7, 10, 18])
def test_a_killed_training_resumes_with_the_same_losses(whole: Path, tmp_path: Path, count: int) -> None:
    check_resumes(0, whole, tmp_path, ("train", count))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_a_training_killed_in_validation_resumes_with_the_same_losses(whole: Path, tmp_path: Path, count: int) -> None:
    check_resumes(0, whole, tmp_path, ("valid", count))


@pytest.mark.parametrize("method", [1, 2])
def test_losses_that_draw_random_numbers_resume_with_the_same_ones(tmp_path: Path, method: int) -> None:
    for home in ("whole", "killed"):
        (tmp_path / home).mkdir()
    undisturbed = undisturbed_training(method, tmp_path / "whole")
    check_resumes(method, undisturbed, tmp_path / "killed", ("train", 10))


def check_resumes(method: int, undisturbed: Path, home: Path, moment: tuple[str, int]) -> None:
    assert in_child(lambda: training(home, method, on_loss=killed_at(*moment))) == KILLED
    before = losses(home) if moment != ("train", 1) else []
    assert in_child(lambda: training(home, method)) == 0
    expected, found = losses(undisturbed), losses(home)
    assert expected[: len(before)] == before
    again = found[len(before) :]
    assert expected[-len(again) :] == again
    # The last step of an epoch is repeated if the validation after it was not finished.
    assert len(before) + len(again) - len(expected) <= 1 + CHECKS
    assert same_weights(undisturbed, home)


def test_a_training_killed_repeatedly_ends_with_the_same_weights(tmp_path: Path, whole: Path) -> None:
    kill = killed_at("train", 5)
    codes = []
    while not codes or codes[-1] == KILLED:
        codes.append(in_child(lambda: training(tmp_path, on_loss=kill)))
        assert len(codes) < 10
    assert codes[-1] == 0
    assert len(codes) > 3
    assert same_weights(whole, tmp_path)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 2)])
def test_a_training_resumes_in_another_number_of_parts(tmp_path: Path, before: int, after: int) -> None:
    """In the second of its three epochs."""
    steps = STEPS + 3
    moment = killed_at("train", before * steps + 1)
    killed = in_child(lambda: training(tmp_path, spec=replace(SPEC, accumulate=before), on_loss=moment))
    assert killed == KILLED
    training(tmp_path, spec=replace(SPEC, accumulate=after))
    taken = [step for part, step, _ in losses(tmp_path) if part == "train"]
    expected = [(range(steps), before), (range(steps, 3 * STEPS), after)]
    assert taken == [step for few, parts in expected for step in few for _ in range(parts)]


def test_a_training_resumes_after_an_error_in_a_step(tmp_path: Path, whole: Path) -> None:

    def fail(part: str, count: int) -> None:
        if (part, count) == ("train", 9):
            raise OSError("the data's disk is away")

    with pytest.raises(OSError, match="is away"):
        training(tmp_path, on_loss=fail)
    training(tmp_path)
    assert same_weights(whole, tmp_path)


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one(
    tmp_path: Path, whole: Path, function: str, count: int
) -> None:

    def killed() -> None:
        owner = os if function == "fsync" else Path
        setattr(owner, function, kills_at(count, getattr(owner, function)))
        training(tmp_path)

    assert in_child(killed) == KILLED
    folder = tmp_path / "checkpoints"
    assert len(list(folder.glob(".*"))) == 1
    assert len(stored(folder)) == min(1, count - 1)
    assert in_child(lambda: training(tmp_path)) == 0
    assert not list(folder.glob(".*"))
    assert same_weights(whole, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path: Path, whole: Path, damage: str) -> None:
    kill = killed_at("train", 10)
    assert in_child(lambda: training(tmp_path, on_loss=kill)) == KILLED
    newest, older = stored(tmp_path / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= damage == "flipped"
    newest.write_bytes(content[: {"cut": len(content) // 2, "emptied": 0, "flipped": None}[damage]])
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged .*resuming from the previous one"):
        training(tmp_path)
    assert older.exists() or stored(tmp_path / "checkpoints")
    assert same_weights(whole, tmp_path)


def test_without_a_readable_checkpoint_the_training_starts_again(tmp_path: Path) -> None:
    for step in (3, 12):
        (tmp_path / f"step-{step}.ckpt").write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"step-(3|12).ckpt is damaged"):
        assert latest(tmp_path) is None
