"""The section `capacity`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from skiplab.comparison.config_base import ConfigurationError, Name, PositiveInt, Section, shown
from skiplab.engine.number_format import FORMATS


def _number_format(value: Any) -> Any:
    if value not in FORMATS:
        raise ConfigurationError(f"capacity.dtype must be one of {', '.join(FORMATS)}, got {shown(value)}")
    return value


class Capacity(Section):
    """The predictions of `experiment=capacity`, and the throughput runs on which they are based."""

    run: Name | Annotated[list[Name], Field(min_length=1)]
    dtype: Annotated[str, BeforeValidator(_number_format)]
    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)]
    prompt_tokens: PositiveInt
    new_tokens: Annotated[int, Field(ge=2)]
    shapes: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]

    @property
    def folders(self) -> list[Path]:
        return [Path(folder) for folder in ([self.run] if isinstance(self.run, str) else self.run)]
