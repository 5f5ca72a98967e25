"""A trained method ready to be used: text in, text out."""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from skiplab.data.encoding import Encoding
from skiplab.engine.backbone import Backbone
from skiplab.engine.batch_run import DecodeResult
from skiplab.engine.continuous import Engine
from skiplab.engine.decode import Step
from skiplab.engine.fast_path import FastPath
from skiplab.engine.generation import GREEDY, GenerationOptions
from skiplab.engine.number_format import FORMATS, NumberFormat
from skiplab.engine.policy import ExitPolicy
from skiplab.engine.request import Decoding, Request, RowRequest
from skiplab.export.text_stream import TextStream, before_stop

if TYPE_CHECKING:
    from transformers import GenerationConfig
    from transformers.generation.streamers import BaseStreamer

Messages = Sequence[Mapping[str, str]]
"""A conversation: messages with `role` and `content`."""
_UNPACKED = MappingProxyType({fmt.states: fmt for fmt in FORMATS.values() if not fmt.integers})


@final
@dataclass(frozen=True)
class SavedMethod:
    """A method ready to decode.

    The methods take generation options as keywords, as `generate` of transformers does, or a `generation_config`.

    Attributes:
        description: class, hyperparameters, setting and so on, as the folder states them.
        defaults: options where a call gives none.
        number_format: of weights and states; None is the backbone's.
        fast: whether weights are packed on a CPU and steps recorded on a GPU.
    """

    backbone: Backbone
    policy: ExitPolicy
    encoding: Encoding
    max_new_tokens: int
    description: Mapping[str, Any]
    defaults: GenerationOptions = GREEDY
    number_format: NumberFormat | None = None
    fast: bool = True

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        batch_size: int = 32,
        generation_config: "GenerationConfig | None" = None,
        streamer: "BaseStreamer | None" = None,
        **options: Any,
    ) -> Any:
        """Continue prompts, as text without stop strings.

        Args:
            prompts: a list, or one string, whose output then is one string; `num_return_sequences` above 1 makes it
                a list in any case, the outputs of one prompt behind each other.
            batch_size: rows decoded at once.
            streamer: of transformers, such as `TextStreamer`; for one output alone.

        Raises:
            ValueError: an option is unknown, not served or of a bad value, or a prompt is no text or too long.
        """
        chosen = self.options(generation_config, **options)
        rows = self._rows(self.prompt_ids(prompts), chosen, batch_size, streamer)
        texts = self._final_texts(rows, chosen)
        return texts[0] if isinstance(prompts, str) and chosen.num_return_sequences == 1 else texts

    def tokens(
        self,
        prompts: str | Sequence[str],
        *,
        batch_size: int = 32,
        generation_config: "GenerationConfig | None" = None,
        **options: Any,
    ) -> list[list[int]]:
        """Token ids of each output, with the end of sequence or stop string that ended it; otherwise as `generate`."""
        chosen = self.options(generation_config, **options)
        return self._rows(self.prompt_ids(prompts), chosen, batch_size, None)

    def stream(
        self, prompt: str | Messages, *, generation_config: "GenerationConfig | None" = None, **options: Any
    ) -> Iterator[str]:
        """Continue one prompt, or conversation, piece by piece; joined, the pieces are the text that `generate` gives.

        Raises:
            ValueError: as `generate`; at once, not with the first piece.
        """
        chosen = self.options(generation_config, **options)
        if chosen.num_return_sequences > 1:
            raise ValueError(f"a stream has one output, got num_return_sequences={chosen.num_return_sequences}")
        ids = self.prompt_ids(prompt)[0] if isinstance(prompt, str) else self.conversation(prompt)
        request = self.request([ids], chosen)

        def pieces() -> Iterator[str]:
            text = TextStream(self.encoding.tokenizer, chosen.stop_strings)
            for step in self.steps(request):
                if piece := text.push(int(step.token_A[0])):
                    yield piece
            if piece := text.end():
                yield piece

        return pieces()

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        *,
        batch_size: int = 32,
        generation_config: "GenerationConfig | None" = None,
        streamer: "BaseStreamer | None" = None,
        **options: Any,
    ) -> Any:
        """The next message of a conversation, by the tokenizer's chat template; of a list of them, a list.

        Raises:
            ValueError: the tokenizer has no chat template; otherwise as `generate`.
        """
        chosen = self.options(generation_config, **options)
        several = bool(messages) and not isinstance(messages[0], Mapping)
        conversations: Any = messages if several else [messages]
        ids = [self.conversation(one) for one in conversations]
        texts = self._final_texts(self._rows(ids, chosen, batch_size, streamer), chosen)
        return texts if several or chosen.num_return_sequences > 1 else texts[0]

    def options(self, config: "GenerationConfig | None" = None, **options: Any) -> GenerationOptions:
        """The options of a call.

        Args:
            config: replaces `defaults` where it is given.

        Raises:
            ValueError: one is unknown, not served or of a bad value.
        """
        return (self.defaults if config is None else GenerationOptions.from_config(config)).updated(**options)

    def conversation(self, messages: Messages) -> list[int]:
        """Token ids of a conversation up to where the next message begins.

        Raises:
            ValueError: the tokenizer has no chat template, or the template refuses the messages.
        """
        tokenizer = self.encoding.tokenizer
        if not tokenizer.chat_template:
            raise ValueError("this method's tokenizer has no chat template; use generate, or set one on it")
        if not messages or not all(isinstance(one, Mapping) and {"role", "content"} <= one.keys() for one in messages):
            raise ValueError(f"messages must be a list of mappings with role and content, got {messages!r:.80}")
        return tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore[index, arg-type, return-value]

    def request(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        numbers: Sequence[int] | None = None,
    ) -> Request:
        """A batch's request, checked.

        Args:
            prompts: token ids.
            numbers: as in `Decoding.request`.

        Raises:
            ValueError: a prompt is too long.
        """
        request = self._decoding(options).request(prompts, numbers=numbers)
        request.check(self.backbone.max_positions)
        return request

    def steps(self, request: Request) -> Generator[Step, Collection[int] | None, DecodeResult]:
        """A request's decode steps; rows that are sent end."""
        return self._path.steps(request)

    def decode(self, request: Request) -> DecodeResult:
        """All of a request's steps."""
        return self._path.decode(request)

    def engine(
        self, *, slots: int, max_tokens: int | None = None, chunk: int = 256, max_waiting: int | None = None
    ) -> Engine:
        """Continuous batching under this method; arguments as for `Engine`. `row` makes its requests."""
        backbone = self._path.backbone(slots)
        return Engine(backbone, self.policy, slots=slots, max_tokens=max_tokens, chunk=chunk, max_waiting=max_waiting)

    def row(
        self, prompt: Sequence[int], options: GenerationOptions, *, number: int = 0, limit: int | None = None
    ) -> RowRequest:
        """One row for an engine.

        Args:
            prompt: token ids.
            number, limit: as in `Decoding.row`.
        """
        return self._decoding(options).row(prompt, number=number, limit=limit)

    def prompt_ids(self, prompts: str | Sequence[str]) -> list[list[int]]:
        """Token ids of prompts in the method's template.

        Raises:
            ValueError: one is no text.
        """
        return self.encoding.prompts(_texts(prompts))

    def eos_ids(self, options: GenerationOptions) -> tuple[int, ...]:
        """Tokens that end an output."""
        return self._decoding(options).eos_ids

    def _decoding(self, options: GenerationOptions) -> Decoding:
        encoding = self.encoding
        return Decoding(
            options, self.max_new_tokens, encoding.eos_id, encoding.pad_id, tokenizer=encoding.tokenizer,
            device=self.backbone.device,
        )  # fmt: skip

    def _rows(
        self,
        ids: Sequence[Sequence[int]],
        options: GenerationOptions,
        batch_size: int,
        streamer: "BaseStreamer | None",
    ) -> list[list[int]]:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._check_lengths(ids, self._decoding(options).limit)
        units = [(index, number) for index in range(len(ids)) for number in range(options.num_return_sequences)]
        if streamer is not None:
            return [self._streamed(ids[0] if ids else [], options, streamer, len(units))]
        found: dict[tuple[int, int], list[int]] = {}
        # Rows of like length together, since the shorter ones are padded.
        order = sorted(units, key=lambda unit: len(ids[unit[0]]))
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            request = self.request([ids[index] for index, _ in part], options, [number for _, number in part])
            found |= zip(part, self.decode(request).sequences(), strict=True)
        return [found[unit] for unit in units]

    def _streamed(
        self, ids: Sequence[int], options: GenerationOptions, streamer: "BaseStreamer", rows: int
    ) -> list[int]:
        if rows != 1:
            raise ValueError(f"a streamer takes one output, got {rows}")
        request, found = self.request([ids], options), []
        streamer.put(request.left_padded()[0])
        for step in self.steps(request):
            streamer.put(step.token_A.cpu())
            found.append(int(step.token_A[0]))
        streamer.end()
        return found

    def _check_lengths(self, ids: Sequence[Sequence[int]], limit: int) -> None:
        """Before the first batch is decoded, and by the caller's own numbers."""
        room = self.backbone.max_positions - limit + 1
        for index, prompt in enumerate(ids):
            if len(prompt) > room:
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens, and max_new_tokens={limit} leaves room for {room} of "
                    f"the model's {self.backbone.max_positions} positions; shorten the prompt or lower max_new_tokens"
                )

    def _final_texts(self, rows: Sequence[Sequence[int]], options: GenerationOptions) -> list[str]:
        texts: Any = self.encoding.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        return [before_stop(text, options.stop_strings).strip() for text in texts]

    @cached_property
    def _path(self) -> FastPath:
        number_format = self.number_format or _UNPACKED[self.backbone.dtype]
        return FastPath(self.backbone, self.policy, number_format if self.fast else None)


def _texts(prompts: Any) -> list[str]:
    """Prompts as a list.

    Raises:
        ValueError: one is no text that can be encoded.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping | bytes):
        raise ValueError(f"prompts must be a list of strings, got {type(prompts).__name__}")
    found = list(prompts)
    for index, prompt in enumerate(found):
        if not isinstance(prompt, str):
            raise ValueError(f"prompts must be strings, prompt {index} is {type(prompt).__name__}: {prompt!r:.60}")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt {index} holds half of a surrogate pair at character {error.start}") from error
    return found
