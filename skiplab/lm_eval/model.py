"""The harness's model `skiplab`: its own `hf` model with scores and outputs under a saved method's plan.

Shapes: B rows, P prompt columns, T columns, G tokens of a continuation, V vocabulary.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

import torch
import torch.nn.functional as F
from lm_eval.api.registry import register_model
from lm_eval.models import huggingface
from lm_eval.models.utils import Collator
from torch import Tensor
from tqdm import tqdm

from skiplab.engine.backbone import Backbone
from skiplab.engine.generation import GenerationOptions
from skiplab.engine.request import Decoding
from skiplab.engine.stop_strings import DecodedStopStrings
from skiplab.export.saved_method import load_method
from skiplab.lm_eval.scoring import continuation_logits, planned_logits

# Its decorator hides all but the base class from type checkers.
HFLM: Any = huggingface.HFLM

_LOGGER = logging.getLogger(__name__)
# Options of the harness's `hf` that are passed on; the others say how it would load a model.
_OPTIONS = (
    "max_length", "truncation", "logits_cache", "softmax_dtype", "add_bos_token", "prefix_token_id", "think_end_token",
    "enable_thinking", "chat_template_args", "batch_size", "max_batch_size",
)  # fmt: skip
# Sampling options, which tasks may also state for greedy decoding.
_OF_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
# Batch size that integer weights are packed for when scoring.
_ROWS = 64
_NOT_OURS: Mapping[str, tuple[Any, ...]] = MappingProxyType({"use_cache": (True,)})

Scored = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts of a request, or None, and token ids of context and continuation."""


@register_model("skiplab")
@final
class SavedMethodLM(HFLM):
    """A saved method as a model of the harness.

    Tokens, batches, few-shot examples, chat templates and stop sequences are those of the harness's `hf` model. A
    context is a prompt, which runs as the method's prompts do; what is scored or generated behind it takes the
    method's plan, the first token as step 0. The method's template is not put around contexts: a task's texts are
    taken as they are.

    Args:
        pretrained: the folder.
        device, dtype, fast, trust: as for `load_method`; "auto" is the folder's number format.
        options: of the harness's `hf` model, as far as they do not say how it loads one.

    Raises:
        ValueError: an option is unknown or not served.
        CheckpointError: as `load_method`.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        fast: bool = True,
        trust: str | Sequence[str] = (),
        **options: Any,
    ) -> None:
        if unknown := [name for name in options if name not in _OPTIONS]:
            raise ValueError(
                f"{unknown[0]} is not an option of the model skiplab; choose from pretrained, device, dtype, fast, "
                f"trust, {', '.join(_OPTIONS)}"
            )
        trusted = [trust] if isinstance(trust, str) else trust
        dtype = None if dtype == "auto" else dtype
        self.method = load_method(pretrained, device=device, dtype=dtype, fast=fast, trust=trusted)
        super().__init__(self.method.backbone.model, tokenizer=self.method.encoding.tokenizer, **options)
        self._folder = pretrained

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the scores; nothing is looked up on the hub."""
        backbone = self.method.backbone
        keys = ("class", "setting", "params")
        return {
            "model_num_parameters": sum(weight.numel() for weight in backbone.parameters()),
            "model_dtype": backbone.dtype,
            "skiplab": {"folder": self._folder, **{key: self.method.description.get(key) for key in keys}},
        }

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        # Called when the harness searches for the largest batch size.
        return planned_logits(self._scoring, self.method.policy, inps, [inps.shape[1]] * len(inps))

    def _loglikelihood_tokens(
        self, requests: list[Scored], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding gives."""
        # Continuations that differ only in their last token share a row, if their contexts have one length.
        order = Collator(
            requests,
            sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
            group_by="contexts" if self.logits_cache else None,
            group_fn=lambda request: [len(request[1]), *request[1], *request[2][:-1]],
        )
        found: list[tuple[float, bool]] = []
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for chunk in self._chunks(order, override_bs):
                for (texts, context, continuation), logits_GV in zip(chunk, self._logits(chunk), strict=True):
                    log_GV = F.log_softmax(logits_GV, dim=-1, dtype=self.softmax_dtype)
                    sharing = order.get_cache(texts, [len(context), *context], continuation, log_GV[None])  # type: ignore[arg-type]
                    for text, tokens, log_1GV in sharing:
                        found.append(_score(log_1GV[0], tokens))
                        if text is not None:
                            self.cache_hook.add_partial("loglikelihood", text, found[-1])
                        bar.update()
        return order.get_original(found)

    def _chunks(self, order: Collator, override_bs: int | None) -> Iterator[Any]:
        if self.batch_size != "auto":
            return order.get_batched(n=self.batch_size)
        if override_bs is not None:
            return order.get_batched(n=override_bs)
        self.batch_sizes = {}
        return order.get_batched(n=0, batch_fn=self._batch_scheduler)  # type: ignore[arg-type]

    def _logits(self, chunk: Sequence[Scored]) -> list[Tensor]:
        """Logits (G, V) of each continuation, whose context loses its beginning where both are too long."""
        pairs = []
        for _, context, continuation in chunk:
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"a continuation must have 1 to {self.max_length} tokens, which max_length or the model allows, "
                    f"got {len(continuation)}"
                )
            surplus = len(context) + len(continuation) - self.max_length - 1
            if surplus > 0:
                _LOGGER.warning("a context of %d tokens loses its first %d", len(context), surplus)
            pairs.append((context[max(surplus, 0) :], continuation))
        return continuation_logits(self._scoring, self.method.policy, pairs)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Prompts and outputs (B, T) of left-padded prompts (B, P); `attention_mask` is False at padding."""
        mask_BP = generation_kwargs.pop("attention_mask").bool()
        prompts = [row_P[mask_P].tolist() for row_P, mask_P in zip(context, mask_BP, strict=True)]
        prompts = [prompt or [self.prefix_token_id] for prompt in prompts]
        options = self._generation_options(generation_kwargs, max_length - context.shape[1])
        if options.do_sample:
            # Of torch's generator, which the harness seeds.
            options = options.updated(seed=int(torch.randint(2**63 - 1, ())))
        # Rows may have one prompt and are to differ, so each has a number of its own.
        decoding = self._decoding(options, stop, max(map(len, prompts)))
        request = decoding.request(prompts, numbers=range(len(prompts)))
        return torch.cat([context, self.method.decode(request).tokens_BT.to(context.device)], dim=1)

    def _generation_options(self, given: Mapping[str, Any], limit: int) -> GenerationOptions:
        if "seed" in given:
            raise ValueError("seed would repeat draws of one prompt; leave it out, and set the harness's own: --seed")
        options = {name: value for name, value in given.items() if value not in _NOT_OURS.get(name, ())}
        if not options.get("do_sample"):
            options = {name: value for name, value in options.items() if name not in _OF_SAMPLING}
        return self.method.options(**options, max_new_tokens=limit)

    def _decoding(self, options: GenerationOptions, stop: Sequence[str], columns: int) -> Decoding:
        encoding = self.method.encoding
        # The tokenizer's own end is known by its id.
        texts = [text for text in stop if text not in ("", encoding.tokenizer.eos_token)]
        # As in the harness, what the prompt ends with is no part of a stop sequence.
        criteria = [DecodedStopStrings(encoding.tokenizer, texts, columns)] if texts else []
        return Decoding(
            options, self.method.max_new_tokens, encoding.eos_id, encoding.pad_id, tokenizer=encoding.tokenizer,
            device=self.method.backbone.device, criteria=criteria,
        )  # fmt: skip

    @cached_property
    def _scoring(self) -> Backbone:
        """The backbone that scores: of 8-bit integers, as in decoding, where the number format says so."""
        fmt = self.method.number_format
        return fmt.fast_path(self.method.backbone, _ROWS) if fmt and fmt.integers else self.method.backbone


def _score(log_GV: Tensor, tokens: Sequence[int]) -> tuple[float, bool]:
    token_G = torch.tensor(tokens, device=log_GV.device)
    return float(log_GV.gather(1, token_G[:, None]).sum()), bool((log_GV.argmax(-1) == token_G).all())
