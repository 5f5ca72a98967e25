"""Inputs with which no run is possible: command lines, environments, folders and files."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Arrange = Callable[[Path], object]
COMPARISON = "experiment=compare_calm"
# For inputs whose fault is found only when data are read.
SMALL = (
    "data.train_size=64",
    "data.valid_size=16",
    "data.test_size=16",
    "calibration.delta=[0.3]",
    "calibration.epsilon=0.9",
)


@dataclass(frozen=True)
class Input:
    """One bad input.

    Attributes:
        arguments: the command line's.
        told: the expected message, or a part of it.
        arrange: makes files in the working directory first.
        environment: variables to set; None removes one.
    """

    arguments: tuple[str, ...]
    told: str
    arrange: Arrange = lambda home: None
    environment: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def id(self) -> str:
        named = [word for word in self.arguments if word not in (COMPARISON, *SMALL)] + [
            f"{k}={v}" for k, v in self.environment.items()
        ]
        return " ".join(named)[:60]


def bad(
    told: str,
    *arguments: str,
    experiment: str = "compare_calm",
    arrange: Arrange = lambda home: None,
    **environment: str | None,
) -> Input:
    own = any(word.startswith(("data=", "~data", "+data")) for word in arguments)
    small = () if own or experiment not in ("compare_calm", "search_schedule") else SMALL
    return Input((f"experiment={experiment}", *small, *arguments), told, arrange, environment)


def text(name: str, content: str | bytes) -> Arrange:
    """Return a function that makes a file."""

    def write(home: Path) -> None:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def loop(name: str) -> Arrange:
    """Return a function that makes a link to itself."""
    return lambda home: (home / name).symlink_to(name)


def removed(home: Path) -> None:
    """Leave the process in a folder that has been removed."""
    gone = home / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


def schedule(**changed: object) -> Arrange:
    """Return a function that makes an exit schedule with an error in it."""
    values = {"name": "s", "num_layers": 12, "plans": [{"from_step": 1, "layers": list(range(6))}]} | changed
    return text("s.yaml", repr(values).replace("inf", ".inf").replace("nan", ".nan"))


def costs(content: str) -> Arrange:
    """Return a function that makes a throughput run's folder with an error in it."""

    def write(home: Path) -> None:
        text("costs/cost_model.json", content)(home)
        text("costs/results.json", '{"environment": {}}')(home)

    return write


def unreadable(arrange: Arrange, told: str = "schedule") -> Input:
    """An input that names a schedule file with an error in it."""
    return bad(told, "methods.skipdecode.schedule=s.yaml", arrange=arrange)


DEEP = "[" * 10_000 + "]" * 10_000
LONG = "x" * 300

VALUES = [
    *(
        bad(f"error: {key} must be {expected}", f"{key}={value}")
        for key, value, expected in (
            ("trainer.batch_size", "2.5", "an integer"), ("trainer.batch_size", "'2'", "an integer"),
            ("trainer.max_epochs", "0.5", "an integer"),
            ("trainer.learning_rate", "nan", "a finite number"), ("trainer.learning_rate", "-1", "above 0"),
            ("trainer.learning_rate", "inf", "a finite number"), ("trainer.learning_rate", "0", "above 0"),
            ("trainer.weight_decay", "-0.1", "at least 0"), ("trainer.weight_decay", "nan", "a finite number"),
            ("trainer.gradient_clip", "nan", "a finite number"), ("trainer.gradient_clip", "-1", "at least 0"),
            ("trainer.accumulate", "1.5", "an integer"),
            ("trainer.devices", "0", "at least 1"), ("trainer.devices", "1.5", "an integer"),
            ("trainer.num_nodes", "-1", "at least 1"),
            ("base.learning_rate", "-1", "above 0"), ("base.max_epochs", "1.5", "an integer"),
            ("base.seed", "-1", "at least 0"), ("base.seed", "0.5", "an integer"),
            ("seeds", "null", "a list"), ("seeds", "0", "a list"),
            ("backbone.hidden_size", "-16", "at least 1"), ("backbone.hidden_size", "2.5", "an integer"),
            ("backbone.num_layers", "0", "at least 1"), ("backbone.num_heads", "0", "at least 1"),
            ("backbone.num_layers", "x", "an integer"), ("backbone.dropout", "nan", "a finite number"),
            ("data.train_size", "0", "at least 1"), ("data.train_size", "-1", "at least 1"),
            ("data.seed", "-1", "at least 0"), ("data.seed", "1.5", "an integer"),
            ("checkpoint_every", "nan", "a finite number"), ("checkpoint_every", "-1", "at least 0"),
            ("checkpoint_every", "soon", "a number"), ("threads", "0", "at least 1"),
            ("threads", "100000", "at most 1024"), ("threads", "1.5", "an integer"), ("limit", "0", "at least 1"),
            ("limit", "2.5", "an integer"), ("limit", "-3", "at least 1"), ("max_new_tokens", "0", "at least 1"),
            ("decode_batch_size", "1.5", "an integer"), ("decode_batch_size", "0", "at least 1"),
            ("benchmark.rounds", "2.5", "an integer"), ("benchmark.rounds", "1", "at least 2"),
            ("benchmark.warmup", "-1", "at least 0"), ("benchmark.prompts", "0", "at least 1"),
            ("benchmark.layers_at", "0", "at least 1"), ("save_models", "maybe", "a boolean"),
            ("cache_dir", "null", "a string"), ("tracking.experiment", "null", "a string"),
            ("job", "null", "a string"), ("methods", "null", "a mapping"), ("speedups", "null", "a list"),
            ("methods.skipdecode.warmup", "1.5", "an integer"), ("benchmark", "null", "a section"),
        )
    ),
    bad("error: trainer.max_epochs must be at least 0", "trainer.batch_size=-4"),
    bad("error: trainer.max_epochs must be at least 0", "trainer.max_epochs=-1"),
    bad("error: method full: fine_tune=true trains, and passes=0 trains nothing", "trainer.max_epochs=0"),
    bad("error: base.max_epochs=0 keeps the base as it is, and its weights are random", "base.max_epochs=0"),
    bad("error: trainer.devices, num_nodes and accumulate must be at least 1", "trainer.accumulate=0"),
    bad("error: seeds[1] must be at least 0", "seeds=[0,-1]"),
    bad("error: speedups[0] must be a finite number", "speedups=[nan]"),
    bad("error: speedups[0] must be at least 1", "speedups=[-2]"),
    bad("error: benchmark.batch_sizes[0] must be", "benchmark.batch_sizes=[1.5]"),
    bad("error: benchmark.batch_sizes[0] must be", "benchmark.batch_sizes=[0]"),
    bad("error: calibration.delta", "calibration.delta=[nan]"),
    bad("error: calibration: epsilon", "calibration.epsilon=0"),
    bad("error: calibration", "calibration.delta=[-0.1]"),
    bad("error: trainer.beta2", "trainer.beta2=1"),
    bad("error: trainer.warmup_fraction", "trainer.warmup_fraction=-1"),
    bad("error: backbone.dropout", "backbone.dropout=2"),
    bad("error: backbone.hidden_size must be a multiple of num_heads", "backbone.num_heads=5"),
    bad("error: capacity.run must", "capacity.run=[]", experiment="capacity"),
    bad("error: capacity.batch_sizes must", "capacity.batch_sizes=[]", experiment="capacity"),
    bad("error: steps_per_round must be at least 3", "steps_per_round=0", experiment="scaling"),
    bad("error: steps_per_round must be at least 3", "steps_per_round=1", experiment="scaling"),
    bad("error: search.space.warmup[0]", "search.space.warmup=[nan,1]", experiment="search_schedule"),
    bad("error: search.trials must be", "search.trials=0", experiment="search_schedule"),
    bad("error: search.seed must be", "search.seed=-1", experiment="search_schedule"),
    bad("error: workers must be", "workers=0", experiment="search_schedule"),
    bad("in memory", "search.storage='sqlite:///:memory:'", experiment="search_schedule"),
    bad("error: throughput.batch_sizes[0]", "throughput.batch_sizes=[2.5]", experiment="throughput"),
    bad("error: throughput needs at least one prompt token", "throughput.new_tokens=0", experiment="throughput"),
]  # fmt: skip

GROUPS = ("trainer", "data", "backbone", "tracking")
NAMES = [
    *(bad(f"error: {group} must not be null; choose one as {group}=NAME", f"{group}=null") for group in GROUPS),
    *(bad(f"error: {group}=nothing is unknown; choose from", f"{group}=nothing") for group in (*GROUPS, "method")),
    bad("did you mean restaurants?", "data=restaurant"),
    bad("did you mean cpu?", "trainer=cpuu"),
    bad("did you mean mlflow?", "tracking=mlfow"),
    bad("did you mean skipdecode?", "method=skipdecod"),
    Input(("experiment=compare_clam",), "did you mean compare_calm?"),
    bad("did you mean trainer.max_epochs?", "trainer.max_epoch=2"),
    bad("did you mean benchmark.rounds?", "benchmrk.rounds=2"),
    bad("error: trainer.max_epoch is unknown; did you mean max_epochs?", "+trainer.max_epoch=2"),
    bad("error: speedup is unknown; did you mean speedups?", "+speedup=[2]"),
    bad("error: methods.calm.confidance is unknown; did you mean confidence?", "+methods.calm.confidance=x"),
    bad("error: methods.calm.batch_policy must be", "methods.calm.batch_policy=freez"),
    bad("did you mean textual?", "calibration.consistency=textul"),
    bad("did you mean float32?", "decode_dtype=float23"),
    bad("~methods.calm", "~method@methods.calm"),
    bad("'speedups=[2,' cannot be read", "speedups=[2,"),
    bad("cannot be read", f"+x={DEEP[:200]}"),
    bad("Interpolation key 'nothing' not found", "limit=${nothing}"),
    bad("error: limit", "limit=${oc.env:NOTHING_OF_THIS_NAME}"),
    bad("error: job must be the dotted path of a function", "job=skiplab.nothing"),
    bad("error: job must be the dotted path of a function", "job=nothing"),
    bad("error: job must name a function", "job=skiplab.jobs"),
    bad("error: data._target_", "data._target_=skiplab.nothing.X"),
    bad("error: backbone._target_", "backbone._target_=os.path.join"),
    bad("error: trainer._target_", "trainer._target_=null"),
    bad("error: methods.x must be a mapping", "+methods.x=3"),
    bad("error: metrics", "metrics=[no.such.metric]"),
    bad("error: metrics", "metrics=[os.path]"),
    bad("target speedup 40 cannot be reached", "speedups=[40]"),
    bad("error: calibration metric", "calibration.metric=bleurt"),
    bad("search.sampler", "search.sampler=tpee", experiment="search_schedule"),
    bad("search.objectives", "+search.objectives.los=minimize", experiment="search_schedule"),
]  # fmt: skip

FOLDERS = [
    bad("file", "hydra.run.dir=file", arrange=text("file", "x")),
    bad("file", "cache_dir=file", arrange=text("file", "x")),
    bad("loop", "hydra.run.dir=loop", arrange=loop("loop")),
    bad("loop", "cache_dir=loop", arrange=loop("loop")),
    bad("File name too long", f"hydra.run.dir={LONG}"),
    bad("File name too long", f"cache_dir={LONG}"),
    bad("/proc/none", "hydra.run.dir=/proc/none"),
    bad("/proc/none", "cache_dir=/proc/none"),
    bad("folder", "hydra.run.dir=file/below", arrange=text("file", "x")),
    bad("working directory", arrange=removed),
    bad(
        "settings",
        "hydra.run.dir=outputs/compare_calm",
        arrange=text("outputs/compare_calm/settings/full-1x-seed-0.json", DEEP),
    ),
    bad("config.json", "hydra.run.dir=outputs/compare_calm", arrange=text("outputs/compare_calm/config.json", "{")),
    bad("config.json", "hydra.run.dir=outputs/compare_calm", arrange=text("outputs/compare_calm/config.json", DEEP)),
    bad(
        "config.json",
        "hydra.run.dir=outputs/compare_calm",
        arrange=text("outputs/compare_calm/config.json", b"\xff\xfe"),
    ),
    bad("config.json", "hydra.run.dir=outputs/compare_calm", arrange=text("outputs/compare_calm/config.json/x", "")),
    bad(
        "another configuration",
        "hydra.run.dir=outputs/compare_calm",
        arrange=text("outputs/compare_calm/config.json", "[]"),
    ),
    bad(
        "settings",
        "hydra.run.dir=outputs/compare_calm",
        arrange=text("outputs/compare_calm/settings/full-1x-seed-0.json", "["),
    ),
]

TEXTS = ("data=jsonl", "data.prompt=a", "data.target=b")
FILES = [
    bad("schedule", "methods.skipdecode.schedule=none.yaml"),
    unreadable(loop("s.yaml")),
    unreadable(text("s.yaml", DEEP)),
    unreadable(text("s.yaml", b"\xff\xfe\x00")),
    unreadable(text("s.yaml", "")),
    unreadable(schedule(name=LONG)),
    unreadable(schedule(name=3)),
    unreadable(schedule(num_layers="12")),
    unreadable(schedule(num_layers=float("inf"))),
    unreadable(schedule(plans=[]), "the first segment of a plan must begin at step 1"),
    unreadable(schedule(plans="all")),
    unreadable(schedule(layer_speedup=float("nan"))),
    unreadable(schedule(layer_speedup="fast")),
    unreadable(schedule(origin=3)),
    unreadable(schedule(plans=[{"from_step": float("inf"), "layers": [0]}])),
    unreadable(schedule(plans=[{"from_step": 1, "layers": [float("inf")]}])),
    unreadable(schedule(plans=[{"from_step": "one", "layers": ["0"]}])),
    bad("capacity", "capacity.run=costs", experiment="capacity"),
    bad("cost_model.json", "capacity.run=costs", experiment="capacity", arrange=costs(DEEP)),
    bad("cost_model.json", "capacity.run=costs", experiment="capacity", arrange=costs("{")),
    bad("costs", "capacity.run=costs", experiment="capacity", arrange=costs('{"float32": 3}')),
    bad("costs", "capacity.run=costs", experiment="capacity", arrange=costs("[1]")),
    bad("costs", "capacity.run=costs", experiment="capacity", arrange=loop("costs")),
    bad("none", "backbone=pretrained", "backbone.checkpoint.name=./none"),
    bad("here", "backbone=pretrained", "backbone.checkpoint.name=./here", arrange=loop("here")),
    bad("here", "backbone=pretrained", "backbone.checkpoint.name=./here", arrange=text("here", "x")),
    bad("here ", "backbone=pretrained", "backbone.checkpoint.name=./here", arrange=text("here/config.json", DEEP)),
    bad("data.dir", *TEXTS, "data.dir=./none"),
    bad("data.dir", *TEXTS, "data.dir=./loop", arrange=loop("loop")),
    bad("data.dir", *TEXTS, "data.dir=./file", arrange=text("file", "x")),
]  # fmt: skip

STORES = [
    bad("cannot use the tracking store", "tracking.uri='sqlite:////proc/none/x.db'"),
    bad("cannot use the tracking store", "tracking.uri='sqlite:///file'", arrange=text("file", "no database" * 500)),
    bad("cannot use the tracking store", "tracking.uri='sqlite:///folder'", arrange=text("folder/x", "")),
    bad("cannot use the tracking store", "tracking.uri='http://127.0.0.1:9'"),
    bad("cannot use the tracking store", "tracking.uri='nothing://x'"),
    bad("skiplab[postgresql]", "tracking.uri='postgresql://x@127.0.0.1:9/y'"),
    bad("pip install mysqlclient", "tracking.uri='mysql://x@127.0.0.1:9/y'"),
    bad("cannot use the tracking store nothing://", MLFLOW_TRACKING_URI="nothing://x"),
    bad("error: tracking.uri must", MLFLOW_TRACKING_URI=""),
    bad("MLFLOW_RUN_ID=0123 is not a run", MLFLOW_RUN_ID="0123"),
    bad("search.storage", "search.storage='nothing://x'", experiment="search_schedule"),
    bad("search.storage", "search.storage=loop", experiment="search_schedule", arrange=loop("loop")),
]

PROCESSES = [
    bad("trainer.devices", "trainer.devices=100"),
    bad("trainer.num_nodes=2", "trainer.num_nodes=2"),
    bad("GPU", "trainer=gpu"),
    bad("trainer accelerator=tpu", "trainer.accelerator=tpu"),
    bad("trainer accelerator=mps", "trainer.accelerator=mps"),
    bad("trainer accelerator=quantum", "trainer.accelerator=quantum"),
    bad("trainer.strategy", "trainer.strategy=dp"),
    bad("precision=8-bit", "trainer.precision=8-bit"),
    bad("trainer compile", "trainer.compile=gcc"),
    bad("WORLD_SIZE", RANK="1"),
    bad("WORLD_SIZE", TORCHELASTIC_RUN_ID="x"),
    bad("take trainer=ddp", "trainer.devices=1", experiment="scaling"),
    bad("limit must be at least 1", "limit=0", HOME=None),
    bad("limit must be at least 1", "limit=0", PYTHONWARNINGS="error"),
]

INPUTS = [*VALUES, *NAMES, *FOLDERS, *FILES, *STORES, *PROCESSES]
