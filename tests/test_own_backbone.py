"""A model family outside the repository, as docs/own_model_family.md shows it."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

from skiplab.backbones.adapters import ADAPTERS
from skiplab.comparison.prepare import prepare
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth, Scheduled
from skiplab.jobs.compare import compare
from skiplab.schedules.exit_schedule import ExitSchedule
from tests.comparison.small import SIZE, SMALL_TASK
from tests.pages import write_files
from tests.test_conformance import check_parallel_forward, check_rows_alone
from tests.tiny import BOS, EOS, PAD, VOCABULARY, CoordinateExit, prompts

PAGE = (Path(__file__).parents[1] / "docs" / "own_model_family.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the page's two files, where packages are found."""
    home = tmp_path_factory.mktemp("own")
    write_files(PAGE, home)
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    ADAPTERS.pop("gpt2", None)
    for name in ("my_package.gpt2", "my_package"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    spec = import_module("my_package.gpt2").GPT2Spec(
        num_layers=6, hidden_size=24, num_heads=3, max_positions=64, init_std=0.3
    )
    torch.manual_seed(0)
    return spec.build(vocab_size=VOCABULARY, pad_id=PAD, bos_id=BOS, eos_id=EOS).eval()


def test_full_depth_gives_hugging_faces_tokens(backbone: Backbone) -> None:
    for prompt in prompts(4, seed=5):
        own = decode(backbone, FullDepth(6), [prompt], max_new_tokens=20, eos_id=EOS, pad_id=PAD).sequences()[0]
        out = backbone.model.generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
        )
        assert own == out[0, len(prompt) :].tolist()


def test_steps_equal_the_parallel_forward_and_rows_alone(backbone: Backbone) -> None:
    schedule = ExitSchedule(num_layers=6, max_exit=5, min_exit=2, horizon=8, warmup=1)
    check_parallel_forward(backbone, Scheduled(schedule, "skip"), prompts(6, seed=5))
    for policy in (Scheduled(schedule, "terminate"), CoordinateExit(0.0)):
        check_rows_alone(backbone, policy, prompts(6, seed=5))


def test_an_experiment_trains_and_decodes_it(home: Path, tmp_path: Path) -> None:
    (command,) = re.findall(r"```sh\nskiplab (.*?)\n```", PAGE)
    _, folder, *given = command.split()
    quick = [
        *SIZE,
        *SMALL_TASK,
        "method=skipdecode",
        "benchmark.batch_sizes=[]",
        "tracking=none",
        "tracking.experiment=own",
    ]
    with initialize_config_module("experiments", version_base="1.3"):
        own = [f"hydra.searchpath=[file://{home / folder}]", f"cache_dir={tmp_path}/cache"]
        config = compose("config", overrides=[*own, *given, *quick])
    # What is given wins over the backbone's file.
    backbone = prepare(config).probe().backbone
    assert (type(backbone).__name__, backbone.num_layers) == ("GPT2Backbone", 4)
    assert compare(config, tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    cost = {row["setting"]: row["train_layer_tokens"] / row["train_tokens"] for row in rows if "train_tokens" in row}
    assert cost["2x"] < cost["1.5x"]
