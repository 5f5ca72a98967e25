"""The type of progress bars."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Passes the pieces of work on one after the other."""
