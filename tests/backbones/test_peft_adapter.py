"""LoRA folders as checkpoints: merged completely, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from skiplab.backbones import peft_adapter
from skiplab.backbones.checkpoint import CheckpointError, PretrainedCheckpoint
from skiplab.backbones.pretrained import PretrainedSpec
from skiplab.backbones.whole_weights import load_whole
from tests.export.test_method import byte_level_tokenizer
from tests.tiny import tiny_backbone

peft: Any = pytest.importorskip("peft", reason="the extra peft is not installed")

# Of peft and transformers, of each other.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing.*:FutureWarning", "ignore::UserWarning:peft"
)
LLAMA, OPT = ["q_proj", "v_proj", "down_proj"], ["q_proj", "fc2"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_base(folder: Path, layout: str = "llama") -> None:
    tiny_backbone(layout).model.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)


def write_adapter(folder: Path, base: Path, targets: list[str] = LLAMA, **options: Any) -> Any:
    """An adapter with random weights; the adapted model."""
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(load_whole(base), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    return model.eval()


def loaded(folder: Path, **options: Any) -> Any:
    checkpoint = PretrainedCheckpoint(name=str(folder), **options)
    return checkpoint.model(checkpoint.config()).eval()


@torch.inference_mode()
@pytest.mark.parametrize(("layout", "targets"), [("llama", LLAMA), ("pre_norm", OPT)])
def test_an_adapter_is_merged_into_its_model(tmp_path: Path, layout: str, targets: list[str]) -> None:
    write_base(tmp_path / "base", layout)
    adapted = write_adapter(tmp_path / "lora", tmp_path / "base", targets)
    found, ids = loaded(tmp_path / "lora"), torch.tensor([[5, 9, 20, 17]])
    torch.testing.assert_close(found(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)
    assert (found(ids).logits - load_whole(tmp_path / "base").eval()(ids).logits).abs().max() > 0.1
    assert not [name for name, _ in found.named_parameters() if "lora" in name]
    assert PretrainedCheckpoint(name=str(tmp_path / "lora")).tokenizer().eos_token == "</s>"


def test_it_is_merged_once_and_again_when_adapter_or_model_changes(tmp_path: Path, cache: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    spec = PretrainedSpec(checkpoint=PretrainedCheckpoint(name=str(tmp_path / "lora")))
    first = spec.identity
    (folder,) = (one for one in cache.iterdir() if one.is_dir())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert spec.build(vocab_size=48, pad_id=0, bos_id=1, eos_id=2).num_layers == 6
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    write_adapter(tmp_path / "lora", tmp_path / "base", ["q_proj"])
    second = spec.identity
    tiny_backbone("llama", seed=5).model.save_pretrained(tmp_path / "base")
    assert len({first, second, spec.identity}) == 3


def test_the_adapters_tokenizer_takes_precedence(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "the adapter's"
    tokenizer.save_pretrained(tmp_path / "lora")
    assert PretrainedCheckpoint(name=str(tmp_path / "lora")).tokenizer().chat_template == "the adapter's"


@pytest.mark.parametrize("layout", ["llama", "pre_norm"])
def test_a_head_trained_with_the_adapter_is_loaded(tmp_path: Path, layout: str) -> None:
    write_base(tmp_path / "base", layout)
    adapted = write_adapter(tmp_path / "lora", tmp_path / "base", ["q_proj"], modules_to_save=["lm_head"])
    head, found = adapted.get_base_model().lm_head.modules_to_save["default"].weight, loaded(tmp_path / "lora")
    assert torch.equal(found.lm_head.weight, head)
    assert not torch.equal(found.get_input_embeddings().weight, head)


def test_an_adapter_with_missing_weights_is_refused(tmp_path: Path, cache: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    whole = load_file(file)
    kept = {name: weight for name, weight in whole.items() if ".layers.3." not in name}
    further = whole | {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(3, 24)}
    reshaped = {name: weight[:2].contiguous() if "lora_A" in name else weight for name, weight in whole.items()}
    for weights, message in (
        (kept, r"lacks base_model.model.model.layers.3.*\(6 tensors\)"),
        (further, r"unexpected tensors: base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"),
        (reshaped, r"the adapter .* does not fit .*base"),
    ):
        save_file(weights, file)
        with pytest.raises(CheckpointError, match=message):
            loaded(tmp_path / "lora")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        loaded(tmp_path / "lora")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model.safetensors, and skiplab reads no pickles"):
        loaded(tmp_path / "lora")
    assert not any(one.is_dir() for one in cache.glob("*"))


def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    base = load_whole(tmp_path / "base")
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "prompts")
    with pytest.raises(CheckpointError, match=r"prompts .*(cannot be merged|does not fit)"):
        loaded(tmp_path / "prompts")
    model: Any = load_whole(tmp_path / "base")
    model.config.tie_word_embeddings = True
    model.lm_head = torch.nn.Linear(24, 48, bias=False)
    adapter = peft_adapter.Adapter(tmp_path, "base", None)
    with pytest.raises(CheckpointError, match="changes only one of embedding and head of base"):
        peft_adapter._check_ties(model, adapter)


def test_folders_with_an_incomplete_or_ambiguous_configuration_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    path = tmp_path / "lora" / "adapter_config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": str(tmp_path / "none")}, "no folder .*none"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=message):
            loaded(tmp_path / "lora")
    path.write_text(json.dumps(config))
    tiny_backbone("llama").model.save_pretrained(tmp_path / "lora")
    with pytest.raises(
        CheckpointError, match=r"holds both a whole model and an adapter of .*move adapter_config.json away"
    ):
        loaded(tmp_path / "lora")


def test_without_peft_the_message_has_a_merge_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    expected = loaded(tmp_path / "lora").state_dict()
    monkeypatch.setattr("skiplab.backbones.peft_adapter.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'skiplab\[peft\]'") as caught:
        loaded(tmp_path / "lora")
    code = str(caught.value).partition('python -c "')[2].rpartition('"')[0]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = loaded(tmp_path / "DIR").state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight)
    assert PretrainedCheckpoint(name=str(tmp_path / "DIR")).tokenizer().eos_token == "</s>"


def test_transformers_own_adapter_loading_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "lora", tmp_path / "base")
    with pytest.raises(
        CheckpointError, match="is an adapter of PEFT, which transformers loaded on top of another model"
    ):
        load_whole(tmp_path / "lora")
