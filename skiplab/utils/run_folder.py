"""The folder of one run, which keeps finished work across interruptions."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from skiplab.utils.distributed import ALONE, Ranks
from skiplab.utils.files import load_json, save_json
from skiplab.utils.locks import Hold, exclusive
from skiplab.utils.old_names import with_present_names

# Keys of a configuration that are texts for people: no result depends on them, so they may always differ.
DESCRIPTIVE = ("description",)


@final
class RunFolder:
    """Finished pieces of work as JSON files, bound to one configuration. The first rank reads and writes for all."""

    def __init__(self, path: Path, ranks: Ranks = ALONE) -> None:
        self.path = path
        self._ranks = ranks
        self._hold: Hold | None = None

    def bind(
        self,
        config: Mapping[str, Any],
        *,
        shared: bool = False,
        check: Callable[[], object] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Bind the folder to a configuration of plain values, once no other process has it.

        The process has it as long as this object lives.

        Args:
            shared: with others of the same configuration, which work on it together.
            check: raises a ValueError for a folder that must not be bound to it; by default `self.check` does.
            meanwhile: called once if another process has it.

        Raises:
            ValueError: it holds results of another one; nothing was written.
        """
        check = check or (lambda: self.check(config))
        check()
        if not shared:
            self._ranks.on_first(lambda: self._take(meanwhile))
            # Whoever had it may have bound it meanwhile.
            check()
        self.save("config", config)

    def is_taken(self) -> bool:
        """Whether another process has the folder."""
        return self._lock().is_taken()

    def _take(self, meanwhile: Callable[[], object]) -> None:
        hold = self._lock()
        hold.acquire(meanwhile)
        self._hold = hold

    def release(self) -> None:
        """Let another process have the folder."""
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _lock(self) -> Hold:
        return Hold(self.path / ".lock", f"the run folder {self.path}")

    def check(self, config: Mapping[str, Any], *, free: Sequence[str] = ()) -> None:
        """Refuse a folder that holds results of another configuration.

        Args:
            free: parts that may differ in addition to `DESCRIPTIVE`, nested keys with dots.

        Raises:
            ValueError: the message names what differs.
        """
        stored = with_present_names(self.load("config"))
        # JSON turns tuples to lists and keys to strings.
        present = json.loads(json.dumps(config))
        differing = [] if stored is None else sorted(_differences(stored, present))
        may_differ = (*DESCRIPTIVE, *free)
        if differing := [key for key in differing if not any(f"{key}.".startswith(f"{one}.") for one in may_differ)]:
            raise ValueError(
                f"{self.path} holds results of another configuration (it differs in {', '.join(differing)}); "
                "choose another folder with hydra.run.dir=DIR, or remove this one"
            )

    def load(self, name: str) -> Any | None:
        """What `save` stored under a name; None if nothing."""
        return self._ranks.on_first(lambda: load_json(self.path / f"{name}.json"))

    def names(self, part: str) -> list[str]:
        """Under which names of a subfolder `save` stored something."""
        return self._ranks.on_first(lambda: sorted(path.stem for path in (self.path / part).glob("*.json")))

    def save(self, name: str, content: Any) -> None:
        """Store plain values under a name."""
        self._ranks.on_first(lambda: save_json(self.path / f"{name}.json", content))

    def update(self, name: str, values: Mapping[str, Any]) -> None:
        """Add plain values to the mapping stored under a name, beside what other processes add to it."""

        def add() -> None:
            path = self.path / f"{name}.json"
            with exclusive(path.with_name(f".{name}.lock"), f"the file {path}"):
                save_json(path, (load_json(path) or {}) | dict(values))

        self._ranks.on_first(add)


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        # A list that earlier versions did not have counts as empty.
        for key in old.keys() | {key for key, value in new.items() if key in old or value != []}:
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    # An earlier version may not have known an option whose default is an empty list.
    elif old != new and not (old is None and new == []):
        yield prefix
