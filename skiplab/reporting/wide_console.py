"""A console for tables."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 160


def wide_console(console: "Console") -> "Console":
    """The console; if it is a file or a pipe, at least 160 columns wide."""
    from rich.console import Console

    narrow = console.width < _PIPE_WIDTH and not console.is_terminal
    return Console(file=console.file, width=_PIPE_WIDTH) if narrow else console
