"""Generation options: how tokens are chosen, and where an output ends. Names and meanings are those of transformers'
`GenerationConfig`."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Self, final

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from skiplab.utils.suggestions import suggestion

# Options of `GenerationConfig` that are not supported, with the values at which they have no effect.
_NOT_SERVED: Mapping[str, tuple[Any, ...]] = MappingProxyType({
    "assistant_early_exit": (), "constraints": (), "diversity_penalty": (0.0,), "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,), "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (), "force_words_ids": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "guidance_scale": (1.0,), "max_time": (), "min_length": (0,), "num_beam_groups": (1,),
    "num_beams": (1,), "penalty_alpha": (0.0,), "prefill_chunk_size": (), "prompt_lookup_num_tokens": (),
    "remove_invalid_values": (False,), "sequence_bias": (), "speculation_type": (), "token_healing": (False,),
    "top_h": (), "use_mtp": (False,), "watermarking_config": (),
})  # fmt: skip
_SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "seed")
_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType({
    "max_new_tokens": (1, math.inf), "min_new_tokens": (0, math.inf), "num_return_sequences": (1, math.inf),
    "no_repeat_ngram_size": (0, math.inf), "top_k": (0, math.inf), "seed": (0, 2**63 - 1), "min_p": (0, 1),
    "epsilon_cutoff": (0, 1), "eta_cutoff": (0, 1),
})  # fmt: skip
_POSITIVE_UP_TO = MappingProxyType(
    {"temperature": math.inf, "repetition_penalty": math.inf, "top_p": 1.0, "typical_p": 1.0}
)


@final
@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen and where outputs end. The default is greedy decoding; sampling options default to the
    values that transformers' `generate` uses.

    Attributes:
        max_new_tokens: limit of a row; None leaves it to the caller.
        min_new_tokens: an end of sequence is chosen only after this many tokens.
        do_sample: draw from the processed distribution, or take the likeliest token.
        top_k: 0 keeps all tokens.
        bad_words_ids: token sequences that are never completed.
        eos_token_id: tokens that end a row; None is the tokenizer's end of sequence, an empty tuple no token.
        stop_strings: a row ends when its output contains one of these texts.
        seed: for sampling; None takes a new one each time.
        num_return_sequences: outputs per prompt.

    Raises:
        ValueError: a value is out of its range, or has no effect together with the others.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    eos_token_id: tuple[int, ...] | None = None
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Options from values as users write them: lists for tuples, a single id or text for a list of one.

        Raises:
            ValueError: an option is unknown or not supported, or a value is invalid.
        """
        return cls().updated(**options)

    @classmethod
    def from_config(cls, config: GenerationConfig) -> Self:
        """The options that a transformers configuration sets; the others keep their defaults.

        Raises:
            ValueError: it sets an option that is not supported; the message names it.
        """
        given = {name: value for name, value in vars(config).items() if value is not None}
        kept = {name: value for name, value in given.items() if name in _NAMES or name in _NOT_SERVED}
        return cls(**_plain(kept))

    def updated(self, **options: Any) -> Self:
        """A copy with other values for some options, as users write them; None leaves an option unchanged.

        Raises:
            ValueError: an option is unknown or not supported, a value is invalid, or a sampling option is given for
                greedy decoding.
        """
        given = {name: value for name, value in options.items() if value is not None}
        changed = replace(self, **_plain(given))
        without = [name for name in given if name in _SAMPLING_OPTIONS and name != "seed"]
        if without and not changed.do_sample:
            raise ValueError(f"{without[0]} has an effect only in sampling: add do_sample=True, or omit {without[0]}")
        return changed

    def to_config(self) -> GenerationConfig:
        """These options as a transformers configuration, which has no seed: `generate` uses torch's generator."""
        values = {name: value for name, value in vars(self).items() if name != "seed" and value not in (None, ())}
        if not self.do_sample:
            values = {name: value for name, value in values.items() if name not in _SAMPLING_OPTIONS}
        return GenerationConfig(
            **{name: _listed(value) for name, value in values.items() if value != 0 or name == "top_k"}
        )

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the likeliest token of the raw scores is always taken, without stop strings."""
        shaped = (
            self.min_new_tokens, self.no_repeat_ngram_size, self.bad_words_ids, self.suppress_tokens,
            self.begin_suppress_tokens, self.stop_strings,
        )  # fmt: skip
        return not self.do_sample and self.repetition_penalty == 1 and not any(shaped)

    @property
    def is_default(self) -> bool:
        """Whether this is plain greedy decoding up to the tokenizer's end of sequence; the seed is ignored."""
        return replace(self, seed=None) == type(self)()

    @property
    def depends_on_scores_alone(self) -> bool:
        """Whether a token is a function of its step's scores and random key: greedy decoding, or sampling with warpers,
        up to the tokenizer's end of sequence."""
        return replace(self, do_sample=False, num_return_sequences=1, **_SAMPLING_DEFAULTS) == type(self)()

    @property
    def warped_by(self) -> tuple[Any, ...]:
        """The values that `warpers` depends on."""
        return tuple(getattr(self, name) for name in _SAMPLING_OPTIONS if name != "seed") if self.do_sample else ()


@contextmanager
def own_generation_config_aside(model: PreTrainedModel) -> Iterator[None]:
    """Makes `generate` use only its arguments, and not the checkpoint's `generation_config.json` for options that they
    leave open."""
    kept, model.generation_config = model.generation_config, GenerationConfig()  # type: ignore[assignment]
    try:
        yield
    finally:
        model.generation_config = kept  # type: ignore[assignment]


_SAMPLING_DEFAULTS = MappingProxyType({name: getattr(GenerationOptions, name) for name in _SAMPLING_OPTIONS})
_NAMES = tuple(field.name for field in fields(GenerationOptions))
_INTEGERS = ("max_new_tokens", "min_new_tokens", "top_k", "no_repeat_ngram_size", "seed", "num_return_sequences")
_SEQUENCES = ("eos_token_id", "suppress_tokens", "begin_suppress_tokens", "stop_strings")


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the fields hold them, without unsupported options that have no effect."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in _NOT_SERVED:
            if value not in _NOT_SERVED[name]:
                neutral = "".join(f"; {name}={one} turns it off" for one in _NOT_SERVED[name])
                raise ValueError(f"{name} is not supported, got {value!r}{neutral or '; leave it out'}")
        elif name not in _NAMES:
            raise ValueError(f"{name} is not a generation option{suggestion(name, _NAMES)}")
        else:
            found[name] = _value(name, value)
    return found


def _value(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    if name in _SEQUENCES:
        value = (value,) if isinstance(value, int | str) else tuple(value)
    elif name == "bad_words_ids":
        value = tuple(tuple(word) for word in value)
    return value


def _listed(value: Any) -> Any:
    return [_listed(one) for one in value] if isinstance(value, tuple) else value


def _check(options: GenerationOptions) -> None:
    for name, value in vars(options).items():
        if value is None:
            continue
        if name == "do_sample":
            expected, good = "true or false", isinstance(value, bool)
        elif name == "stop_strings":
            expected, good = "texts that are not empty", all(isinstance(one, str) and one for one in value)
        elif name == "bad_words_ids":
            expected, good = "lists of token ids", all(word and all(map(_is_id, word)) for word in value)
        elif name in _SEQUENCES:
            expected, good = "token ids", all(map(_is_id, value))
        else:
            expected, good = _in_range(name, value)
        if not good:
            raise ValueError(f"{name} must be {expected}, got {value!r}")
    if options.max_new_tokens is not None and options.min_new_tokens > options.max_new_tokens:
        raise ValueError(
            f"min_new_tokens={options.min_new_tokens} exceeds max_new_tokens={options.max_new_tokens}; lower the former"
        )
    if options.num_return_sequences > 1 and not options.do_sample:
        raise ValueError(
            f"num_return_sequences={options.num_return_sequences} in greedy decoding would repeat one output; add "
            "do_sample=True"
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _in_range(name: str, value: Any) -> tuple[str, bool]:
    kind: Any = int if name in _INTEGERS else (int, float)
    number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    what = "an integer" if name in _INTEGERS else "a number"
    if name in _POSITIVE_UP_TO:
        most = _POSITIVE_UP_TO[name]
        return f"{what} above 0{'' if most == math.inf else f' and at most {most:g}'}", number and 0 < value <= most
    least, most = _RANGES[name]
    return f"{what} of at least {least:g}{'' if most in (math.inf, 2**63 - 1) else f' and at most {most:g}'}", (
        number and least <= value <= most
    )


GREEDY = GenerationOptions()
"""Plain greedy decoding."""
