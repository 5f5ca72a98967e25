"""One backbone in memory, however many models are timed."""

from collections.abc import Callable
from pathlib import Path
from typing import final

from skiplab.engine.backbone import Backbone
from skiplab.engine.packed_linear import prepack, repack
from skiplab.training.weights import overwrite


@final
class SwappableBackbone:
    """One backbone that loads the weights of one folder after another in place.

    Memory holds one model, however many are timed, and CUDA graphs recorded on it stay valid.

    Args:
        load: makes a backbone with a folder's weights.
        folder: the first folder.
    """

    def __init__(self, load: Callable[[Path], Backbone], folder: Path) -> None:
        self.backbone = load(folder)
        self._folder: Path | None = folder
        self._packed: tuple[int, Backbone] | None = None

    def packed(self, rows: int) -> Backbone:
        """The backbone packed for decoding `rows` rows."""
        if self._packed is None or self._packed[0] != rows:
            self._packed = None
            self._packed = rows, prepack(self.backbone, rows=rows)
        return self._packed[1]

    def load_weights(self, folder: Path) -> None:
        """Load a folder's weights in place."""
        if folder == self._folder:
            return
        # If loading fails midway, the weights belong to no folder.
        self._folder = None
        overwrite(self.backbone.model, folder)
        if self._packed is not None:
            repack(self._packed[1])
        self._folder = folder
