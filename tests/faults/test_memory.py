"""Out of memory for real: the address space of a forked process is limited."""

import json
import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.engine.out_of_memory import Halving, loss_in_parts, out_of_memory
from skiplab.engine.policy import FullDepth
from skiplab.evaluation.generate import generate, generate_hf
from skiplab.methods.base import Setup
from skiplab.methods.full import Full
from skiplab.training.trainer import BATCH_PART, TrainerSpec, train
from tests.faults.processes import in_child

ROWS = 256
SPEC = TrainerSpec(max_epochs=1, batch_size=ROWS, learning_rate=1e-3)
DATA = TextData(Restaurants(train_size=2 * ROWS, valid_size=ROWS, test_size=8), batch_size=ROWS, max_new_tokens=64)
SHAPE = OPTSpec(num_layers=4, hidden_size=64, num_heads=4, max_positions=128, init_std=0.1)


def new_backbone():
    torch.manual_seed(0)
    return SHAPE.build(vocab_size=len(DATA.tokenizer), pad_id=DATA.pad_id, bos_id=DATA.bos_id, eos_id=DATA.eos_id)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak_of(work: Callable[[], object], folder: Path) -> int:
    """Bytes of address space that the work needs in addition to those in use before."""

    def measured() -> None:
        before = address_space()
        work()
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak"))
        (folder / "peak.json").write_text(json.dumps(peak - before))

    assert in_child(measured) == 0
    return json.loads((folder / "peak.json").read_text())


def within(work: Callable[[], object], room: int, told: Path) -> int:
    """The exit code of work with `room` bytes of address space; its warnings are written to a file."""

    def limited() -> None:
        limit = address_space() + room
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            try:
                work()
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        told.write_text("\n".join(str(one.message) for one in caught if "out of memory" in str(one.message)))

    return in_child(limited, told.with_suffix(".out"))


def short_of_memory(work: Callable[[], object], peak: int, told: Path) -> str:
    """Run the work with less and less room until it runs out of memory and recovers; returns its warnings."""
    for share in (0.8, 0.6, 0.4, 0.3, 0.2):
        code = within(work, int(share * peak), told)
        assert code == 0, told.with_suffix(".out").read_text()[-3000:]
        if said := told.read_text():
            return said
    raise AssertionError("memory never ran out")


def test_decoding_continues_with_half_the_batch_and_gives_the_same_tokens(tmp_path: Path) -> None:
    backbone = new_backbone().eval()
    # Enough that keys and values take most of the memory.
    items = 4 * DATA.items("valid")

    def work(file: str = "short.json") -> None:
        found = generate(backbone, FullDepth(4), DATA, items, batch_size=len(items))
        (tmp_path / file).write_text(json.dumps([found.tokens, found.depths, found.decode_batch_size]))

    peak = peak_of(lambda: work("whole.json"), tmp_path)
    said = short_of_memory(work, peak, tmp_path / "told.txt")
    assert "out of memory decoding 1024 rows; retrying with 512" in said
    *whole, rows = json.loads((tmp_path / "whole.json").read_text())
    assert rows is None
    *short, rows = json.loads((tmp_path / "short.json").read_text())
    assert rows in (512, 256, 128, 64)
    assert short == whole


def test_training_continues_with_half_the_batch_at_a_time_and_gives_the_same_weights(tmp_path: Path) -> None:
    def work(folder: str = "short") -> None:
        module = Full(Setup(new_backbone().train(), [20], SPEC.optimization))
        train(module, DATA, SPEC, seed=1, folder=tmp_path / folder, logger=None)
        torch.save(module.state_dict(), tmp_path / f"{folder}.pt")

    DATA.check(128)
    peak = peak_of(lambda: work("whole"), tmp_path)
    said = short_of_memory(work, peak, tmp_path / "told.txt")
    assert "out of memory in training step" in said
    assert "2 parts" in said
    assert not (tmp_path / "whole" / BATCH_PART).exists()
    assert json.loads((tmp_path / "short" / BATCH_PART).read_text()) in (1 / 2, 1 / 4, 1 / 8)
    whole, short = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "short"))
    for name in whole:
        torch.testing.assert_close(whole[name], short[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_loss_in_parts_and_its_gradients_equal_those_of_the_whole_batch(parts: int) -> None:
    module = Full(Setup(new_backbone().train(), [20], SPEC.optimization))
    batch = DATA.batches("valid")[0]
    found = []
    for count in (1, parts):
        module.zero_grad()
        loss = loss_in_parts(module.loss, batch, count)
        loss.backward()
        found.append((loss.detach(), [part.grad.clone() for part in module.parameters() if part.grad is not None]))
    (loss, gradients), (in_parts, others) = found
    torch.testing.assert_close(in_parts, loss)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def work(rows):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.warns(UserWarning, match="retrying with 1"), pytest.raises(torch.OutOfMemoryError):
        list(Halving(2, "decoding")([1, 2, 3], work))


def test_other_errors_do_not_count_as_out_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_generate_of_hugging_face_halves_its_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = new_backbone().eval()
    items = DATA.items("test")
    whole = generate_hf(backbone, DATA, items, batch_size=8)
    original: Any = backbone.model.generate

    def short(ids, **options):
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(ids, **options)

    monkeypatch.setattr(backbone.model, "generate", short)
    with pytest.warns(UserWarning, match="retrying with [24]"):
        halved = generate_hf(backbone, DATA, items, batch_size=8)
    assert halved.decode_batch_size == 2
    assert halved.tokens == whole.tokens
