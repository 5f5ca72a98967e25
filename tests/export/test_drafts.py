"""Saved methods that draft their tokens."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from skiplab.engine.speculative import Speculative
from skiplab.export.saved_method import load_method
from skiplab.methods.full import Full
from skiplab.methods.skipdecode import SkipDecode
from skiplab.methods.speculative import SelfSpeculative
from skiplab.serve.__main__ import main
from tests.export.test_saved_method import PROMPTS, saved, setup
from tests.serve.serving import NAME, serving


@pytest.mark.parametrize(
    "draft",
    [
        {"speedup": 3},
        {"layers": [0, 5], "draft": {"length": 2}},
        {"speedup": 2, "kind": "terminate", "draft": {"vocabulary": [3, 7]}},
    ],
)
def test_a_full_model_with_drafts_gives_its_own_tokens(tmp_path: Path, draft: dict[str, Any]) -> None:
    expected = saved(tmp_path, Full(setup("llama")))
    method = load_method(tmp_path, draft=draft)
    assert isinstance(method.policy, Speculative)
    assert method.tokens(PROMPTS) == expected.tokens(PROMPTS)
    sampling = {"do_sample": True, "seed": 3, "temperature": 1.5}
    assert method.tokens(PROMPTS, **sampling) == expected.tokens(PROMPTS, **sampling)
    assert "".join(method.stream(PROMPTS[0])) == expected.generate(PROMPTS[0])


def test_a_saved_drafter_is_loaded_and_served(tmp_path: Path) -> None:
    options: dict[str, Any] = {"speedup": 3, "draft": {"length": 3, "adaptive": True}}
    saved(tmp_path, SelfSpeculative(setup(), **options), **options)
    method, full = load_method(tmp_path), load_method(tmp_path, draft={"layers": [0]})
    assert method.tokens(PROMPTS) == full.tokens(PROMPTS)
    with serving(method, max_rows=4, max_new_tokens=60) as address:
        body = {"model": NAME, "prompt": PROMPTS[:3], "max_tokens": 20}
        answer = httpx.post(f"{address}/v1/completions", json=body, timeout=60).json()
    assert [choice["text"] for choice in answer["choices"]] == method.generate(PROMPTS[:3], max_new_tokens=20)


def test_a_vocabulary_is_saved_as_it_was_found(tmp_path: Path) -> None:
    options: dict[str, Any] = {"speedup": 3, "draft": {"vocabulary": 5}}
    found, loaded = saved(tmp_path, SelfSpeculative(setup(), **options), **options).policy, load_method(tmp_path).policy
    assert isinstance(found, Speculative)
    assert isinstance(loaded, Speculative)
    assert isinstance(found.drafting.vocabulary, tuple)
    assert len(found.drafting.vocabulary) == 5
    assert loaded.drafting.vocabulary == list(found.drafting.vocabulary)
    saved(tmp_path / "full", Full(setup()))
    with pytest.raises(ValueError, match="draft vocabulary=5 takes the most frequent tokens of validation data"):
        load_method(tmp_path / "full", draft=options)


def test_what_cannot_draft_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "skip", SkipDecode(setup(), speedup=2.0), speedup=2.0)
    with pytest.raises(ValueError, match="drafts keep the output of full depth, but 2x decodes with fewer layers"):
        load_method(tmp_path / "skip", draft={"speedup": 3})
    saved(tmp_path / "full", Full(setup()))
    with pytest.raises(ValueError, match=r"draft: .*'speed'.*its keys are those of method/speculative.yaml"):
        load_method(tmp_path / "full", draft={"speed": 3})
    with pytest.raises(ValueError, match="draft length must be at least 1, got 0"):
        load_method(tmp_path / "full", draft={"speedup": 3, "draft": {"length": 0}})
    assert main([str(tmp_path / "skip"), "--draft", '{"speedup": 3}']) == 1
    assert "drafts keep the output of full depth" in capsys.readouterr().err
