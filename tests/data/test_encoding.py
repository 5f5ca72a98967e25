"""Templates, truncation and special tokens."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from skiplab.data.encoding import Encoding, Template
from skiplab.data.tokenizers import byte_bpe_tokenizer, word_tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_bpe_tokenizer(["what is this? it is that."], 300)


def with_start(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer like OPT's, which begins every text with a special token."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="</s> $A", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def test_a_tokenizer_made_for_the_task_ends_prompts_with_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
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


@pytest.mark.parametrize("text", ["hello <text> world</text>", "price </s> low", "a <pad> b", "<unk>", "</s></s>"])
def test_control_tokens_spelled_in_a_text_are_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    for pretrained in (False, True):
        encoding = Encoding(tokenizer, Template(close=""), pretrained=pretrained)
        (target,) = encoding.targets([text])
        assert encoding.texts([target]) == [text]
        assert target.count(encoding.eos_id) == 1
        (prompt,) = encoding.prompts([text])
        assert not set(tokenizer.all_special_ids) & set(prompt if pretrained else prompt[:-1])


def test_control_tokens_spelled_in_a_template_are_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    encoding = Encoding(tokenizer, Template(prompt="</s>this {prompt}</s>", close="<pad>"), pretrained=True)
    plain, spelled = encoding.prompts(["what is it?", "what </s> is it?"])
    for ids in (plain, spelled):
        assert (ids[0], ids[-2], ids[-1]) == (encoding.eos_id, encoding.eos_id, encoding.pad_id)
        assert ids.count(encoding.eos_id) == 2
    assert encoding.texts([spelled]) == ["this what </s> is it?"]


def test_a_word_spelled_like_a_control_token_is_unknown() -> None:
    encoding = Encoding(word_tokenizer(["a", "b"]), Template(), pretrained=False)
    (target,) = encoding.targets(["a </s> b"])
    assert target.count(encoding.eos_id) == 1
    assert encoding.texts([target]) == ["a b"]


def test_no_prompt_has_the_end_token_that_a_tokenizer_appends(tokenizer: PreTrainedTokenizerFast) -> None:
    special = [("<text>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<text> $A </s>", special_tokens=special
    )
    encoding = Encoding(tokenizer, Template(close=" it"), pretrained=True)
    (ids,) = encoding.prompts(["what is this?"])
    assert ids[0] == encoding.bos_id
    assert encoding.eos_id not in ids
    assert encoding.texts([ids]) == ["what is this? it"]
    assert encoding.targets(["that"])[0].count(encoding.eos_id) == 1


def test_an_empty_list_of_texts_gives_no_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Encoding(tokenizer, Template(), pretrained=True).prompts([]) == []


def test_long_texts_are_cut_at_the_end_and_prompts_keep_their_close(tokenizer: PreTrainedTokenizerFast) -> None:
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
    with pytest.raises(ValueError, match=r"longest_prompt=2 leaves no room for the prompt"):
        Encoding(tokenizer, Template(close="\nA:", longest_prompt=2), pretrained=True)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="the tokenizer has no pad token"):
        _ = Encoding(tokenizer, Template(), pretrained=False).pad_id
