"""Limits of a server."""

from dataclasses import dataclass, fields
from typing import final


@final
@dataclass(frozen=True)
class Limits:
    """Bounds on requests, each with an error of its own.

    Args:
        max_rows: rows decoded together.
        prompt_chunk: prompt tokens that are read beside one decode step of the rows under way.
        max_waiting: rows that may wait; further ones get status 429.
        max_prompt_tokens: of a prompt; None is bounded by the model's positions.
        max_new_tokens: of an output; None is bounded by the model's positions.
        max_outputs: prompts times outputs of one request.
        max_body_bytes: of a request; larger ones get status 413.
    """

    max_rows: int = 16
    prompt_chunk: int = 256
    max_waiting: int = 256
    max_prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    max_outputs: int = 64
    max_body_bytes: int = 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}")
