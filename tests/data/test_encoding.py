"""Templates, truncation and special tokens."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from skiplab.data.encoding import Encoding, Template
from skiplab.data.tokenizers import byte_bpe_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_bpe_tokenizer(["what is this? it is that."], 300)


def with_start(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """As OPT's: every text begins with a token of its own."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="</s> $A", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def test_a_tasks_own_tokenizer_closes_prompts_with_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    encoding = Encoding(tokenizer, Template(), pretrained=False)
    (ids,) = encoding.prompts(["what is this?"])
    assert ids[-1] == encoding.bos_id
    assert encoding.texts([ids]) == ["what is this?"]
    (target,) = encoding.targets(["it is that."])
    assert target[-1] == encoding.eos_id


def test_a_pretrained_tokenizer_puts_its_tokens_where_its_model_expects_them(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = Template(prompt="Q: {prompt}", close="\nA:")
    encoding = Encoding(with_start(tokenizer), template, pretrained=True)
    (ids,) = encoding.prompts(["what {is} this?"])
    assert ids[0] == encoding.eos_id
    assert str(tokenizer.decode(ids[1:])).strip() == "Q: what {is} this? \nA:"
    (target,) = encoding.targets(["it is that."])
    assert target.count(encoding.eos_id) == 1


def test_long_texts_lose_their_end_and_prompts_keep_their_close(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = Encoding(tokenizer, Template(close="\nA:"), pretrained=True)
    cut = Encoding(tokenizer, Template(close="\nA:", longest_prompt=6, longest_target=3), pretrained=True)
    close = tokenizer("\nA:", add_special_tokens=False)["input_ids"]
    (full_ids,), (ids,) = whole.prompts(["what is this? it is"]), cut.prompts(["what is this? it is"])
    assert ids == [*full_ids[: 6 - len(close)], *close]
    assert cut.targets(["it is that. what?"])[0] == whole.targets(["it is that. what?"])[0][:3]
    assert cut.targets(["it"])[0][-1] == cut.eos_id


def test_bad_templates_say_what_is_wrong(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"template.prompt must hold \{prompt\} once, got 'Q:'"):
        Template(prompt="Q:")
    with pytest.raises(ValueError, match=r"template.longest_target must be at least 2 tokens, got 1"):
        Template(longest_target=1)
    with pytest.raises(ValueError, match=r"longest_prompt=2 leaves no token of the prompt"):
        Encoding(tokenizer, Template(close="\nA:", longest_prompt=2), pretrained=True)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="the tokenizer has no pad token"):
        _ = Encoding(tokenizer, Template(), pretrained=False).pad_id
