"""The commands and code of docs/using_a_method.md, with a small checkpoint and small data."""

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from skiplab.backbones.shapes import LlamaSpec
from skiplab.export.saved_method import load_method
from skiplab.jobs.compare import compare
from skiplab.jobs.export import export
from skiplab.serve.__main__ import _parser
from tests.composed import composed
from tests.export.test_method import byte_level_tokenizer
from tests.serve.serving import serving

PAGE = (Path(__file__).parents[1] / "docs" / "using_a_method.md").read_text()
# To save time, nothing is tracked or timed.
QUICK = ("tracking.uri=null", "benchmark.batch_sizes=[]")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def write_checkpoint_and_data() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained("my_model")
    shape = LlamaSpec(num_layers=6, hidden_size=16, num_heads=2, num_kv_heads=1, max_positions=128)
    shape.build(vocab_size=len(tokenizer), pad_id=0, bos_id=2, eos_id=1).model.save_pretrained("my_model")
    draw = random.Random(0)
    Path("my_data").mkdir()
    for split, count in (("train", 40), ("valid", 12), ("test", 8)):
        texts = [" ".join(draw.choices(["red", "fox", "old", "dog", "big", "cat"], k=6)) for _ in range(count)]
        prompts = [f"{split} {text}" for text in texts]
        rows = [json.dumps({"prompt": prompt, "target": prompt.upper()}) for prompt in prompts]
        Path("my_data", f"{split}.jsonl").write_text("\n".join(rows))


@pytest.mark.filterwarnings("ignore:.* split are in the .* split too")
def test_the_page_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKIPLAB_CACHE", str(tmp_path / "cache"))
    write_checkpoint_and_data()
    train, save, serve, curl = map(shlex.split, blocks("sh"))
    for job, (_, _, module, *overrides) in ((compare, train), (export, save)):
        assert module == "skiplab.run"
        given = [one for one in overrides if not one.startswith("hydra.")]
        config = composed(*given, *QUICK, "tracking.experiment=mine")
        assert job(config, tmp_path / "outputs" / "mine")

    capsys.readouterr()
    printed = []
    for code in blocks("python"):
        exec(code, {})
        printed.append(capsys.readouterr().out)
    folder = _parser().parse_args(serve[3:]).folder
    method = load_method(folder)
    assert printed[0] == method.generate("the first prompt") + "\n"
    expected = method.generate("the first prompt", max_new_tokens=20)
    assert printed[1].startswith("['the first prompt\\n")

    body: dict[str, Any] = json.loads(curl[curl.index("-d") + 1])
    with serving(method) as address:
        answer = httpx.post(f"{address}{curl[1].removeprefix('http://127.0.0.1:8000')}", json=body, timeout=60).json()
    assert answer["choices"][0]["text"] == expected
