"""Predict decoding speed at other shapes from the cost models that throughput runs fitted on one machine."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Self, final

import torch

from skiplab.backbones.shapes import OPTSpec
from skiplab.benchmarking.cost_model import CostModel, Evidence
from skiplab.benchmarking.roofline import Footprint, bytes_speedup, steps_of
from skiplab.engine.number_format import FORMATS
from skiplab.schedules.schedule_solver import solve_schedule
from skiplab.utils.files import load_json


@final
@dataclass(frozen=True)
class Predictor:
    """A cost model, and the throughput runs to which it was fitted.

    Attributes:
        sources: folder and machine of each run.
        errors: absolute relative errors on the held-out settings.
    """

    sources: list[dict[str, Any]]
    model: CostModel
    errors: list[float]

    @classmethod
    def read(cls, folders: Sequence[Path], dtype: str) -> Self:
        """The model of one run, or a model fitted to the settings of several runs.

        Raises:
            ValueError: a run has no cost model for the number format, or the runs come from several machines.
        """
        found = [_read(folder, dtype) for folder in folders]
        sources = [source for source, _ in found]
        if len(machines := {(source["cpu"], source["gpu"], source["threads"]) for source in sources}) > 1:
            raise ValueError(
                f"capacity predicts for one machine; {', '.join(map(str, folders))} are from {len(machines)} machines: "
                f"{'; '.join(sorted(map(str, machines)))}"
            )
        first = found[0][1]
        if len(found) == 1:
            try:
                errors = [abs(one) for one in first["held_out_errors"].values()]
                return cls(sources, CostModel(**first["constants"]), errors)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{folders[0]}/cost_model.json is not a cost model of this version of skiplab; run "
                    "experiment=throughput again"
                ) from error
        for folder, (_, model) in zip(folders, found, strict=True):
            if "fitted" not in model:
                raise ValueError(
                    f"capacity fits a model to the settings of several runs, but {folder} has stored none; give this "
                    "folder alone, or run experiment=throughput there again"
                )
        evidence = reduce(Evidence.with_other, (Evidence.of(model, source["folder"]) for source, model in found))
        return cls(sources, evidence.model, [abs(error) for error in evidence.held_out_errors.values()])

    @property
    def machine(self) -> str:
        first = self.sources[0]
        return first["gpu"] or f"{first['cpu']}, {first['threads']} thread(s)"

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "runs": self.sources,
            "constants": asdict(self.model),
            "median_error": statistics.median(self.errors),
            "largest_error": max(self.errors),
        }


def _read(folder: Path, dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    models, measured = load_json(folder / "cost_model.json"), load_json(folder / "results.json")
    for name, found in (("cost_model", models), ("results", measured)):
        if found is not None and not isinstance(found, dict):
            raise ValueError(f"{folder}/{name}.json is not what experiment=throughput writes; run it again")
    if not models or measured is None or dtype not in models:
        others = f", only for {', '.join(models)} (capacity.dtype=)" if models and measured else ""
        raise ValueError(
            f"capacity predicts from a finished throughput run: {folder} holds no cost model for {dtype}{others}; run "
            "experiment=throughput and give its folder as capacity.run=DIR"
        )
    source = {key: measured["environment"].get(key) for key in ("cpu", "gpu", "threads", "git_revision")}
    return {"folder": str(folder), **source}, models[dtype]


@final
@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The decoding to predict: full depth, and SkipDecode at each speedup, at each batch size.

    Args:
        prompt_tokens, new_tokens: of every row.
    """

    dtype: str
    batch_sizes: Sequence[int]
    prompt_tokens: int
    new_tokens: int
    speedups: Sequence[float]

    def rows(self, name: str, spec: OPTSpec, model: CostModel) -> list[dict[str, Any]]:
        """Result rows of a shape called `name`; no weights are allocated.

        Raises:
            ValueError: a speedup cannot be reached.
        """
        number_format = FORMATS[self.dtype]
        with torch.device("meta"):
            backbone = spec.build(vocab_size=1, pad_id=1, bos_id=0, eos_id=2).to(number_format.states)
        size = Footprint.of(backbone, number_format.weight_bytes)
        plans = self._plans(spec.num_layers)
        rows: list[dict[str, Any]] = []
        for batch_size in self.batch_sizes:
            full = model.seconds(steps_of(plans["1x"], rows=batch_size, prompt=self.prompt_tokens), size)
            for setting, depths in plans.items():
                steps = steps_of(depths, rows=batch_size, prompt=self.prompt_tokens)
                seconds = model.seconds(steps, size)
                rows.append(
                    {
                        "backbone": name,
                        "method": "full" if setting == "1x" else "skipdecode",
                        "setting": setting,
                        "seed": 0,
                        "batch_size": batch_size,
                        "dtype": self.dtype,
                        "mean_depth": sum(depths) / len(depths),
                        "layer_speedup": spec.num_layers * len(depths) / sum(depths),
                        "bytes_speedup": bytes_speedup(steps, size),
                        "predicted_ms_per_step": 1e3 * seconds / len(depths),
                        "predicted_tokens_per_s": batch_size * len(depths) / seconds,
                        "predicted_speedup": full / seconds,
                    }
                )
        return rows

    def _plans(self, layers: int) -> dict[str, list[int]]:
        """Depths of the decode steps by setting."""
        count = self.new_tokens - 1
        plans = {"1x": [layers] * count}
        for speedup in self.speedups:
            schedule = solve_schedule(speedup, num_layers=layers, lengths=[self.new_tokens])
            plans[f"{speedup:g}x"] = [schedule.depth(step) for step in range(1, count + 1)]
        return plans
