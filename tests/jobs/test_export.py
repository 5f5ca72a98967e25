"""Settings of finished comparisons saved as models: every way to use them gives the comparison's tokens."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoModelForCausalLM

import skiplab.hf
from skiplab.comparison.prepare import ConfigurationError, prepare
from skiplab.data.module import Item
from skiplab.engine.batch import left_pad
from skiplab.export.saved_method import SavedMethod, load_method
from skiplab.jobs.compare import compare
from skiplab.jobs.export import export
from skiplab.utils.files import save_json
from tests.comparison.small import small_config
from tests.serve.serving import NAME, serving

SETTINGS = (
    "~methods.calm_calibrated",
    "~methods.skipdecode_calibrated",
    "+method@methods.early_termination=early_termination",
    "methods.calm.sweep.confidence=[softmax,classifier]",
    "speedups=[2]",
    "methods.full.sweep.fine_tune=[false]",
    "benchmark.batch_sizes=[]",
    "tracking.uri=null",
)
USED = [
    ("skipdecode", "2x"),
    ("early_termination", "2x"),
    ("multi_layer", "2x"),
    ("calm", "softmax ~2x"),
    ("calm", "classifier ~2x"),
]


pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture(scope="module", params=["opt_tiny", "llama_tiny"])
def home(no_plots_in_module: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that contains a finished run."""
    home = tmp_path_factory.mktemp(request.param)
    assert compare(small_config(home, *SETTINGS, f"backbone={request.param}"), home / "run")
    return home


def exported(home: Path, *overrides: str) -> None:
    assert export(small_config(home, f"run={home}/run", *overrides, experiment="export"), home / "export")


def record(home: Path, method: str, setting: str) -> tuple[str, dict[str, Any]]:
    """A setting's name in the run folder, and its stored record."""
    for path in (home / "run" / "settings").iterdir():
        found = json.loads(path.read_text())
        if (found["method"], found["setting"]) == (method, setting):
            return path.stem, found
    raise AssertionError([path.stem for path in (home / "run" / "settings").iterdir()])


def test_items(home: Path) -> list[Item]:
    return prepare(small_config(home, *SETTINGS)).data.items("test")


test_items.__test__ = False  # type: ignore[attr-defined]


def by_transformers(folder: Path, method: SavedMethod, prompts: list[str]) -> list[list[int]]:
    encoding = method.encoding
    ids_BP, mask_BP = left_pad(encoding.prompts(prompts), encoding.pad_id)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    sequences = model.generate(
        ids_BP, attention_mask=mask_BP.long(), pad_token_id=encoding.pad_id, max_new_tokens=method.max_new_tokens,
        custom_generate=skiplab.hf.generate,
    )  # fmt: skip
    rows = sequences[:, ids_BP.shape[1] :].tolist()
    return [row[: row.index(encoding.eos_id) + 1] if encoding.eos_id in row else row for row in rows]


@pytest.mark.parametrize(("name", "setting"), USED)
def test_every_way_to_use_a_model_gives_the_comparisons_tokens(home: Path, name: str, setting: str) -> None:
    key, kept = record(home, name, setting)
    exported(home, f"method={name}", f"setting='{setting}'")
    folder = home / "run" / "models" / key
    prompts = [item.prompt for item in test_items(home)]
    method = load_method(folder)
    assert method.tokens(prompts) == kept["outputs"]["tokens"]
    assert method.generate(prompts) == kept["outputs"]["texts"]
    assert ["".join(method.stream(prompt)) for prompt in prompts[:3]] == kept["outputs"]["texts"][:3]
    assert by_transformers(folder, method, prompts) == kept["outputs"]["tokens"]
    with serving(method) as address:
        answer = httpx.post(f"{address}/v1/completions", json={"model": NAME, "prompt": prompts}, timeout=60).json()
    assert [choice["text"] for choice in answer["choices"]] == kept["outputs"]["texts"]
    assert answer["usage"]["completion_tokens"] == sum(map(len, kept["outputs"]["tokens"]))


@pytest.mark.parametrize(("seed", "meant"), [(None, 3), (4, 4)])
def test_the_default_is_the_first_seed(tmp_path: Path, seed: int | None, meant: int) -> None:
    plain = prepare(small_config(tmp_path, *SETTINGS, "seeds=[3,4]")).config.plain
    save_json(tmp_path / "run" / "config.json", plain)
    with pytest.raises(ConfigurationError, match=rf"skipdecode 2x \(seed {meant}\) is not finished in"):
        exported(tmp_path, "method=skipdecode", "setting=2x", *([] if seed is None else [f"seed={seed}"]))


def test_the_base_can_be_exported_too(home: Path) -> None:
    exported(home, "setting=1x")
    key, kept = record(home, "full", "1x")
    prompts = [item.prompt for item in test_items(home)]
    assert load_method(home / "run" / "models" / key).tokens(prompts) == kept["outputs"]["tokens"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nothing"], "run must be the folder of a comparison"),
        (["setting=2x"], "got setting=2x, which matches 3; choose from method=skipdecode setting='2x', "),
        (["method=skipdecode", "setting=9x"], "got method=skipdecode setting=9x, which matches none"),
        (["method=skipdecode", "setting=2x", "seed=7"], "seed=7, which matches none"),
        (["method=skipdecode", "setting=2x", "cache_dir=elsewhere"], "give the run's cache as cache_dir=DIR"),
    ],
)
def test_missing_runs_settings_and_weights_are_named(
    home: Path, overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        exported(home, *overrides)
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_and_records_are_not_made_again(home: Path) -> None:
    trained, moved = list((home / "cache").glob("method-*/")), home / "moved"
    moved.mkdir()
    for folder in trained:
        folder.rename(moved / folder.name)
    with pytest.raises(ConfigurationError, match=r"the weights of skipdecode 2x .* are gone"):
        exported(home, "method=skipdecode", "setting=2x")
    for folder in trained:
        (moved / folder.name).rename(folder)
    key, _ = record(home, "skipdecode", "2x")
    kept = home / "run" / "settings" / f"{key}.json"
    kept.rename(moved / kept.name)
    with pytest.raises(ConfigurationError, match=r"skipdecode 2x \(seed 0\) is not finished in"):
        exported(home, "method=skipdecode", "setting=2x")
    (moved / kept.name).rename(kept)
