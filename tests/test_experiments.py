"""Every shipped YAML file is a test case: it composes, and its configuration passes all checks."""

from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.comparison.prepare import ConfigurationError, Prepared, prepare
from skiplab.jobs.search import checked_spec
from skiplab.run import experiments
from tests import papers
from tests.composed import composed

# Their small files share prompts.
pytestmark = pytest.mark.filterwarnings("ignore:.* split are in the .* split too")

ROOT = files("experiments")
SMALL_TASK = ("data.train_size=40", "data.valid_size=225", "data.test_size=10")


def options(group: str) -> list[str]:
    names = (entry.name for entry in (ROOT / group).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def prepared(*overrides: str, allow_distributed: bool = False) -> Prepared:
    return prepare(composed(*overrides, "tracking.experiment=test"), allow_distributed=allow_distributed)


# Without those that read the configuration of another run.
@pytest.mark.parametrize("name", [name for name in options("experiment") if name not in ("report", "export")])
def test_experiments(tmp_path: Path, name: str) -> None:
    task: tuple[str, ...] = SMALL_TASK
    if name in (*papers.EXPERIMENTS, "pretrained_e2e"):
        # These need tasks and weights from the hub or a package. A limit is set, because without it calibrations refuse
        # so few items.
        task = (*papers.local_copy(name, tmp_path), "backbone.pretrained=false", "limit=100")
    elif name == "untrained":
        # Random weights must be trained.
        task = ("data=restaurants", *SMALL_TASK, "backbone.pretrained=false", "base.max_epochs=1", "limit=100")
    parts = prepared(f"experiment={name}", *task, allow_distributed=name == "scaling")
    assert parts.cases[0].entry.label == "full 1x"
    assert len(experiments()[name]) > 20
    job_module, _, job = parts.config.job.rpartition(".")
    assert callable(getattr(import_module(job_module), job))


@pytest.mark.parametrize("name", papers.EXPERIMENTS)
@pytest.mark.parametrize(("backbone", "layers"), [("opt_1_3b", 24), ("opt_6_7b", 32)])
def test_one_override_chooses_either_model_of_the_papers_comparisons(
    tmp_path: Path, name: str, backbone: str, layers: int
) -> None:
    task = papers.local_copy(name, tmp_path)
    parts = prepared(f"experiment={name}", f"backbone={backbone}", "backbone.pretrained=false", *task)
    assert parts.probe().backbone.num_layers == layers
    assert {case.entry.setting for case in parts.cases if case.entry.method == "skipdecode"} == {
        f"{speedup}x" for speedup in (1, 2, 3, 4, 5)
    }
    assert parts.trainer.beta2 == parts.base_trainer.beta2 == 0.95
    assert parts.trainer.learning_rate == 2e-5
    assert parts.config.plain["backbone"]["dropout"] == 0.1


@pytest.mark.parametrize("name", options("backbone"))
def test_backbones(name: str) -> None:
    if name == "pretrained":
        pytest.skip("has no shape of its own")
    # Random weights, since the hub cannot be reached; tiny backbones always have random ones.
    overrides = ("experiment=compare_calm", f"backbone={name}", "++backbone.pretrained=false", *SMALL_TASK)
    with torch.device("meta"):
        backbone = prepared(*overrides).new_backbone()
    heads = backbone.model.config.num_attention_heads
    assert backbone.hidden_size == heads * backbone.head_size
    assert heads % backbone.kv_heads == 0


@pytest.mark.parametrize("name", options("method"))
def test_methods(name: str) -> None:
    methods = {case.entry.method for case in prepared("experiment=compare_calm", f"method={name}", *SMALL_TASK).cases}
    assert methods == {"full", name.removesuffix("_calibrated")}


@pytest.mark.parametrize("name", options("generation"))
def test_generation(name: str) -> None:
    chosen = prepared("experiment=skip_or_terminate", f"generation={name}", *SMALL_TASK).config.generation
    assert chosen.is_plain_greedy == (name == "greedy")
    assert chosen.seed == 0


@pytest.mark.parametrize("name", options("trainer"))
def test_trainers(name: str) -> None:
    overrides = ("experiment=compare_calm", f"trainer={name}", *SMALL_TASK)
    if name.startswith("gpu") and not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="this machine has none"):
            prepared(*overrides)
    else:
        assert prepared(*overrides, allow_distributed=True).trainer.max_epochs == 1


@pytest.mark.parametrize("name", ["compare_calm", "smoke"])
def test_e2e_data_fits_the_experiments(tmp_path: Path, name: str) -> None:
    lines = "".join(f'"name[N{index}], food[F]",N{index} serves F.\n' for index in range(240))
    for file in ("devset.csv", "testset_w_refs.csv"):
        (tmp_path / file).write_text("mr,ref\n" + lines)
    parts = prepared(f"experiment={name}", "data=e2e", f"data.dir={tmp_path}", "data.vocab_size=300", "speedups=[2]")
    assert isinstance(parts.spec, OPTSpec)
    assert parts.spec.dropout == 0.1
    assert parts.data.source.name == "e2e (trained on the dev split)"


@pytest.mark.parametrize("name", options("search"))
def test_searches(name: str) -> None:
    spec = checked_spec(prepared("experiment=search_schedule", f"search={name}", *SMALL_TASK))
    assert spec.samplers == {"test": "tpe", "test-random": "random"}


def test_a_method_is_added_to_an_experiment_by_name() -> None:
    added = prepared("experiment=compare_calm", "+method@methods.early_termination=early_termination", *SMALL_TASK)
    methods = [case.entry.method for case in added.cases]
    assert set(methods) == {"full", "skipdecode", "multi_layer", "calm", "early_termination"}
