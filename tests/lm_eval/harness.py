"""Saved methods, and tasks small enough to run the harness in a test."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from skiplab.backbones.shapes import LlamaSpec, OPTSpec, Shape
from skiplab.data.encoding import Encoding, Template
from skiplab.export.saved_method import save_method
from skiplab.methods.base import ExitModule, Optimization, Setup
from tests.export.test_method import byte_level_tokenizer

lm_eval: Any = pytest.importorskip("lm_eval", reason="the extra eval is not installed")
pytest.importorskip("lm_eval.models.huggingface", reason="the extra eval is not installed")
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager

SIZES: dict[str, Any] = {"num_layers": 4, "hidden_size": 24, "num_heads": 6, "max_positions": 1024, "init_std": 0.3}
SHAPES: dict[str, Shape] = {"opt": OPTSpec(**SIZES), "llama": LlamaSpec(**SIZES, num_kv_heads=3)}
WORDS = ("the golden fox", "a café with low prices", "ñandú 東京", "low prices; the fox", "golden", "🦊🦊 the café")
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "fewshot_split": "test",
        "num_fewshot": 2,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    # Choices of a single token, which are scored in one row.
    "letters": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "cloze": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "generation": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}\n",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n\n", "e", "fox"], "do_sample": False, "max_gen_toks": 24},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def save(folder: Path, family: str, cls: type[ExitModule], **params: Any) -> ExitModule:
    """A method on random weights, in a folder."""
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(1)
    backbone = SHAPES[family].build(vocab_size=len(tokenizer), pad_id=0, bos_id=2, eos_id=1).eval()
    module = cls(Setup(backbone, [8, 12, 20], Optimization(learning_rate=1e-3)), **params).eval()
    encoding = Encoding(tokenizer, Template(), pretrained=True)
    save_method(folder, module, module.exit_policy([]), encoding, params=params, max_new_tokens=24, facts={})
    return module


def write_tasks(folder: Path, **changes: Any) -> None:
    """Write the tasks' files, with data of 6 documents."""
    folder.mkdir(exist_ok=True)
    data = folder / "test.jsonl"
    rows = []
    for index in range(6):
        words = [WORDS[(index + offset) % len(WORDS)] for offset in range(4)]
        question = " ".join(words[: 1 + index % 3])
        text = " ".join(words * (1 + 3 * index))
        rows.append({"question": question, "choices": words[1:], "answer": index % 3, "text": text})
    data.write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        config = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", **task, **changes,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(config))


def evaluated(model: Any, folder: Path, tasks: list[str], **options: Any) -> dict[str, Any]:
    """The harness's results and samples."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return lm_eval.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True, **options
    )


def answers(results: dict[str, Any]) -> dict[str, list[Any]]:
    """The model's unprocessed responses to the documents of each task."""
    return {
        name: [sample["resps"] for sample in sorted(samples, key=lambda one: one["doc_id"])]
        for name, samples in results["samples"].items()
    }


def scores(results: dict[str, Any]) -> dict[str, Any]:
    """Each task's metrics, unrounded."""
    return results["results"]
