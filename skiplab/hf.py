"""Saved methods through `generate` of transformers.

    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    model.generate(**inputs, custom_generate=skiplab.hf.generate, max_new_tokens=40)

Shapes: B rows, A rows that have not ended, P prompt columns, T generated tokens, V vocabulary.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.utils.hub import cached_file

from skiplab.backbones.adapters import adapt
from skiplab.engine.backbone import Backbone
from skiplab.engine.decode import decode_steps
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.request import Request
from skiplab.engine.speculative import Speculative
from skiplab.engine.stop_strings import stop_criterion
from skiplab.engine.token_choice import Choosing, uniforms
from skiplab.export.description import NO_DATA, build_module

if TYPE_CHECKING:
    from transformers.generation.streamers import BaseStreamer

# Options beyond choosing one token per row from its scores, with the values that switch them off.
_NOT_SERVED: Mapping[str, tuple[Any, ...]] = MappingProxyType({
    "num_beams": (1,), "num_beam_groups": (1,), "penalty_alpha": (0.0,), "dola_layers": (), "guidance_scale": (1.0,),
    "prompt_lookup_num_tokens": (), "assistant_early_exit": (), "use_mtp": (False,), "output_attentions": (False,),
    "output_hidden_states": (False,), "constraints": (), "force_words_ids": (), "speculation_type": (),
})  # fmt: skip
_CACHES = ("cache", "past_key_values")


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: "BaseStreamer | None" = None,
    **model_kwargs: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """The decoding loop of a saved method; pass it to `generate` as `custom_generate`.

    Processors, criteria, sampling, streamers and returned scores are those of plain `generate`; random numbers come
    from torch's generator, so `torch.manual_seed` repeats them. Rows that have ended have scores and logits of 0.

    Args:
        input_ids: left-padded prompts (B, P).

    Raises:
        ValueError: the model is not a saved method, or an option is not supported, such as beam search.
    """
    _check(generation_config, model_kwargs)
    streamer = streamer or _streamer_of_the_caller(model)
    backbone, policy = _method_of(model)
    scores, logits = _Scores(), []
    raw: bool = generation_config.return_dict_in_generate and generation_config.output_logits  # type: ignore[assignment]
    processors = LogitsProcessorList([*logits_processor, scores])
    request = _request(input_ids, model_kwargs.get("attention_mask"), processors, stopping_criteria, generation_config)
    scores.kept = _keeps_scores(generation_config, policy)
    tokens: list[Tensor] = []
    for step in decode_steps(backbone, policy, request):
        token_B = torch.full((len(input_ids),), request.pad_id, device=step.token_A.device)
        token_B[step.index_A] = step.token_A
        tokens.append(token_B)
        if raw:
            logit_BV = step.logits_AV.new_zeros(len(input_ids), step.logits_AV.shape[1], dtype=torch.float32)
            logit_BV[step.index_A] = step.logits_AV.float()
            logits.append(logit_BV)
        if streamer is not None:
            streamer.put(token_B.cpu())
    if streamer is not None:
        streamer.end()
    sequences = torch.cat([input_ids, torch.stack(tokens, dim=1).to(input_ids.device)], dim=1)
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateDecoderOnlyOutput(
        sequences=sequences,  # type: ignore[arg-type]
        scores=tuple(one.clone() for one in scores.seen) if scores.kept else None,  # type: ignore[arg-type]
        logits=tuple(logits) if raw else None,  # type: ignore[arg-type]
    )


def run(model: PreTrainedModel, inputs: Tensor | None = None, **arguments: Any) -> Any:
    """`generate` of a saved method, with the arguments of `model.generate`; its `custom_generate/` calls this.

    Raises:
        ValueError: as `generate`.
    """
    config, tokenizer = arguments.get("generation_config"), arguments.pop("tokenizer", None)
    stops = arguments.pop("stop_strings", None) or getattr(config, "stop_strings", None)
    if stops:
        if tokenizer is None:
            raise ValueError("stop_strings need the tokenizer: generate(..., stop_strings=..., tokenizer=tokenizer)")
        if config is not None:
            arguments["generation_config"] = GenerationConfig.from_dict({**config.to_dict(), "stop_strings": None})
        criteria = arguments.get("stopping_criteria") or ()
        stops = [stops] if isinstance(stops, str) else stops
        ids = inputs if inputs is not None else arguments["input_ids"]
        columns = ids.shape[1]
        arguments["stopping_criteria"] = StoppingCriteriaList([*criteria, stop_criterion(tokenizer, stops, columns)])
    given = {name: value for name, value in arguments.items() if value is not None}
    # The class's own: on a model whose folder is trusted, `model.generate` comes here.
    return type(model).generate(model, inputs, custom_generate=generate, **given)  # type: ignore[arg-type, operator]


@final
class _Scores(LogitsProcessor):
    """Runs after the processors and keeps their scores."""

    def __init__(self) -> None:
        self.kept = False
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        if self.kept:
            self.seen.append(scores.clone())
        return scores


def _check(config: GenerationConfig, model_kwargs: dict[str, Any]) -> None:
    for name, off in _NOT_SERVED.items():
        value = getattr(config, name, None)
        if value is not None and value not in off:
            raise ValueError(f"skiplab.hf.generate does not support {name}={value!r}; leave it out")
    if model_kwargs.get("inputs_embeds") is not None:
        raise ValueError("skiplab.hf.generate needs input_ids, got inputs_embeds")
    for name in _CACHES:
        cache = model_kwargs.get(name)
        if cache is not None and hasattr(cache, "get_seq_length") and cache.get_seq_length() > 0:
            raise ValueError("skiplab.hf.generate manages keys and values itself; leave out the filled cache")


def _keeps_scores(config: GenerationConfig, policy: ExitPolicy) -> bool:
    wanted = bool(config.return_dict_in_generate and config.output_scores)
    if wanted and isinstance(policy, Speculative):
        # Processors also run for drafts, in no order of steps.
        raise ValueError("a method that drafts tokens does not serve output_scores=True; use output_logits=True")
    return wanted


def _request(
    input_ids: Tensor,
    mask_BP: Tensor | None,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
) -> Request:
    rows, columns = input_ids.shape
    ids = input_ids.tolist()
    if mask_BP is not None:
        if bool((mask_BP[:, 1:] < mask_BP[:, :-1]).any()):
            raise ValueError("prompts must be padded on the left; set padding_side='left' on the tokenizer")
        ids = [row[columns - int(length) :] for row, length in zip(ids, mask_BP.sum(1).tolist(), strict=True)]
    if max(map(len, ids)) < columns:
        raise ValueError("the prompts have columns of padding only; remove the columns that are padding in all rows")
    limit = (config.max_length or 0) - columns
    keys = torch.randint(2**63 - 1, (rows,)).tolist()
    # End of sequence is among the criteria.
    choosing = Choosing(processors, criteria, uniforms(keys, limit) if config.do_sample else None)
    pad = config.pad_token_id
    return Request(ids, [limit] * rows, (), 0 if pad is None else int(pad), choosing)  # type: ignore[arg-type]


def _method_of(model: PreTrainedModel) -> tuple[Backbone, ExitPolicy]:
    """A saved method's view of its model and its policy, made once per model."""
    if (known := vars(model).get("_skiplab")) is None:
        description = getattr(model.config, "skiplab", None)
        if description is None:
            raise ValueError(
                "this model is not a saved method: its config.json has no entry 'skiplab'. Load a folder that was made "
                "with save_models=true or experiment=export"
            )
        backbone = adapt(model)
        module = build_module(description, backbone, lambda name: _file(model, name))
        known = backbone, module.exit_policy(NO_DATA)
        # As a plain attribute: a module that holds itself would have no end.
        vars(model)["_skiplab"] = known
    return known


def _file(model: PreTrainedModel, name: str) -> Path:
    found = cached_file(str(model.config.name_or_path), name)
    assert found is not None
    return Path(found)


def _streamer_of_the_caller(model: PreTrainedModel) -> "BaseStreamer | None":
    """The streamer that the caller passed to `generate`. transformers 5.24 gives it the prompt but does not pass it on
    to a callable, so without this it would wait forever for tokens and end."""
    frame = sys._getframe(2)
    found = frame.f_locals.get("streamer")
    return found if frame.f_code.co_name == "generate" and frame.f_locals.get("self") is model else None
