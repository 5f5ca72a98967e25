"""Methods saved as folders, and loaded again."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from baselines.calm import CALM
from skiplab.backbones.checkpoint import CheckpointError
from skiplab.backbones.shapes import LlamaSpec, OPTSpec, Shape
from skiplab.data.encoding import Encoding, Template
from skiplab.data.module import TextData
from skiplab.data.restaurants import Restaurants
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch import collate
from skiplab.engine.policy import FullDepth
from skiplab.export.saved_method import SavedMethod, SavedMethodError, load_method, save_method
from skiplab.methods.base import ExitModule, Optimization, Setup
from skiplab.methods.skipdecode import SkipDecode

DATA = TextData(Restaurants(train_size=8, valid_size=8, test_size=8), batch_size=8, max_new_tokens=24)
PROMPTS = [item.prompt for item in DATA.items("test")]
SIZES: dict[str, Any] = {"num_layers": 6, "hidden_size": 24, "num_heads": 6, "max_positions": 128, "init_std": 0.3}
SHAPES: dict[str, Shape] = {"opt": OPTSpec(**SIZES), "llama": LlamaSpec(**SIZES, num_kv_heads=3)}


def backbone(family: str = "opt") -> Backbone:
    torch.manual_seed(0)
    ids = {"pad_id": DATA.pad_id, "bos_id": DATA.bos_id, "eos_id": DATA.eos_id}
    return SHAPES[family].build(vocab_size=len(DATA.tokenizer), **ids).eval()


def setup(family: str = "opt") -> Setup:
    return Setup(backbone(family), [8, 12, 20], Optimization(learning_rate=1e-3))


def saved(folder: Path, module: ExitModule, **params: Any) -> SavedMethod:
    """Save a module; return the method before saving, for comparison."""
    prompts, targets = zip(*DATA.valid_pairs, strict=True)
    batch = collate(prompts, targets, DATA.pad_id)
    policy = module.exit_policy([batch])
    facts = {"task": "restaurants", "bleu": 12.3}
    save_method(folder, module, policy, DATA.encoding, params=params, max_new_tokens=24, facts=facts)
    return SavedMethod(module.backbone, policy, DATA.encoding, 24, {})


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (SkipDecode, {"speedup": 2.0, "decay": "cosine"}),
        (CALM, {"threshold": 0.6, "confidence": "state"}),
        (CALM, {"speedup": 1.7}),
        (CALM, {"quantile": 0.6, "confidence": "state"}),
    ],
    ids=["skipdecode", "calm at a threshold", "calm at a speedup", "calm at a quantile"],
)
def test_a_loaded_method_decodes_the_same_tokens(
    tmp_path: Path, method: Any, options: dict[str, Any], family: str
) -> None:
    before = saved(tmp_path, method(setup(family), **options), **options)
    after = load_method(tmp_path)
    assert after.tokens(PROMPTS) == before.tokens(PROMPTS)
    assert after.generate(PROMPTS[:2], batch_size=1) == before.generate(PROMPTS[:2])
    full = SavedMethod(before.backbone, FullDepth(6), DATA.encoding, 24, {})
    assert after.tokens(PROMPTS) != full.tokens(PROMPTS)


def test_a_classifier_is_saved_with_the_method(tmp_path: Path) -> None:
    module = CALM(setup(), threshold=0.5, confidence="classifier")
    for probe in module.probes:
        torch.nn.init.normal_(probe.linear.weight, std=0.5)  # type: ignore[union-attr]
        probe.on_train_end()
    before = saved(tmp_path, module.eval(), threshold=0.5, confidence="classifier")
    assert load_method(tmp_path).tokens(PROMPTS) == before.tokens(PROMPTS)


def test_a_new_process_loads_it_with_the_readmes_three_lines(tmp_path: Path) -> None:
    before = saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(from skiplab.export.saved_method .*?)```", readme, re.DOTALL)
    assert len([line for line in lines.split("\n") if line]) == 3
    code = re.sub(r'load_method\(".*?"\)', f"load_method({str(tmp_path)!r})", lines)
    code = re.sub(r'generate\(".*?"\)', f"generate({PROMPTS[0]!r})", code)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == before.generate(PROMPTS[0])


def test_plain_transformers_reads_the_folder(tmp_path: Path) -> None:
    before = saved(tmp_path, SkipDecode(setup("llama"), speedup=2.0), speedup=2.0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, before.backbone.model.get_parameter("lm_head.weight"))
    assert AutoTokenizer.from_pretrained(tmp_path)(PROMPTS[0])["input_ids"] == DATA.tokenizer(PROMPTS[0])["input_ids"]
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))


def test_the_model_card_describes_the_method(tmp_path: Path) -> None:
    saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    card = (tmp_path / "README.md").read_text()
    assert "SkipDecode at the setting 2x" in card
    assert "| task | restaurants |" in card
    assert "| bleu | 12.3 |" in card
    assert "from the last prompt position on: 6, " in card


def test_a_method_that_needs_validation_data_is_not_saved(tmp_path: Path) -> None:
    options = {"threshold": 0.5, "confidence": {"name": "softmax", "vocabulary": 5}}
    module = CALM(setup(), **options)
    with pytest.raises(
        SavedMethodError, match="of 5 tokens cannot be saved, because its policy is made from validation"
    ):
        saved(tmp_path, module, **options)
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_loadable_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SavedMethodError, match=r"holds no skiplab.json"):
        load_method(tmp_path)
    saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    path = tmp_path / "skiplab.json"
    description = json.loads(path.read_text())
    for change, message in (
        ({"class": "os.system"}, "os.system is not a class of skiplab. or baselines."),
        ({"class": "skiplab.utils.files.load_json"}, "skiplab.utils.files.load_json is not a method of skiplab"),
        ({"format": 9}, "has format 9, but this version of skiplab reads 1"),
    ):
        path.write_text(json.dumps(description | change))
        with pytest.raises(SavedMethodError, match=message):
            load_method(tmp_path)


def test_messages_say_what_a_place_without_a_method_is(tmp_path: Path) -> None:
    def message(place: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_method(place)
        assert str(place) in str(caught.value)
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "none")
    assert "is empty" in message(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "an adapter of PEFT; merge it" in message(tmp_path)
    assert "is a file" in message(tmp_path / "adapter_config.json")
    (tmp_path / "adapter_config.json").unlink()
    backbone().model.save_pretrained(tmp_path)
    assert "backbone=pretrained backbone.checkpoint.name=" in message(tmp_path)


def test_damaged_methods_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    description = json.loads((tmp_path / "skiplab.json").read_text())
    for content, message in (
        ("{", "is not valid JSON"),
        ("[]", "has format None"),
        (json.dumps(description | {"class": "skiplab.later.Method"}), "has no skiplab.later.Method"),
        (json.dumps(description | {"params": {"later": 1}}), "saved by another version of skiplab"),
        (json.dumps({**description, "lengths": None}), "cannot be loaded"),
    ):
        (tmp_path / "skiplab.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            load_method(tmp_path)
    (tmp_path / "skiplab.json").write_text(json.dumps(description))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model.safetensors is truncated"):
        load_method(tmp_path)


def test_prompts_are_strings(tmp_path: Path) -> None:
    method = saved(tmp_path, SkipDecode(setup(), speedup=2.0), speedup=2.0)
    assert method.generate(PROMPTS[0]) == method.generate(PROMPTS[:1])[0]
    assert method.generate([]) == []
    for prompts, message in (
        (None, "must be a list of strings, got NoneType"),
        (5, "must be a list of strings, got int"),
        ([PROMPTS[0], None], "prompt 1 is NoneType"),
        ([5], "prompt 0 is int: 5"),
        (["half \ud83d"], "prompt 0 holds half of a surrogate pair at character 5"),
    ):
        with pytest.raises(ValueError, match=message):
            method.generate(prompts)  # type: ignore[arg-type]


def test_templates_are_saved(tmp_path: Path) -> None:
    encoding = Encoding(DATA.tokenizer, Template(prompt="{prompt} .", longest_prompt=9), pretrained=False)
    module = SkipDecode(setup(), speedup=2.0)
    save_method(tmp_path, module, module.exit_policy([]), encoding, params={"speedup": 2.0}, max_new_tokens=5, facts={})
    assert load_method(tmp_path).encoding.prompts(PROMPTS) == encoding.prompts(PROMPTS)


def test_a_folder_with_old_module_names_still_loads() -> None:
    folder = Path(__file__).parent / "saved_before_packages"
    assert json.loads((folder / "skiplab.json").read_text())["class"] == "skiplab.skipdecode.SkipDecode"
    expected = json.loads((folder / "expected.json").read_text())
    assert load_method(folder).tokens(list(expected)) == list(expected.values())


@pytest.mark.parametrize(
    ("present", "old"),
    [
        ({"threshold": 0.6, "confidence": "state"}, {"threshold": 0.6, "measure": "state"}),
        (
            {"threshold": 0.6, "exits": {"first": 2}, "decay": {"temperature": 4.0, "formula": "code"}},
            {
                "threshold": 0.6, "speedup": None, "measure": "softmax", "vocabulary": None, "first_exit": 2,
                "exit_interval": 1, "classifier_loss": "geometric", "temperature": 4.0, "decay": "code",
                "batch_policy": "freeze", "propagation": "lazy",
            },
        ),
    ],
    ids=["as a test gave them", "as a method file gave them"],
)  # fmt: skip
def test_a_folder_with_old_calm_hyperparameters_still_loads(
    tmp_path: Path, present: dict[str, Any], old: dict[str, Any]
) -> None:
    before = saved(tmp_path, CALM(setup(), **present), **present)
    path = tmp_path / "skiplab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"params": old}))
    assert load_method(tmp_path).tokens(PROMPTS) == before.tokens(PROMPTS)
