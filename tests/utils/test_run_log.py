"""The log file."""

import logging
import warnings
from pathlib import Path

import pytest

from skiplab.utils.run_log import logged_to


def test_libraries_and_warnings_are_kept_and_the_console_is_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    lightning, before = logging.getLogger("lightning.pytorch"), warnings.showwarning
    levels = (logging.getLogger().level, lightning.level, [handler.level for handler in lightning.handlers])
    with logged_to(path), warnings.catch_warnings():
        warnings.simplefilter("default")
        lightning.info("chatter of Lightning")
        logging.getLogger("some.library").info("chatter of a library")
        warnings.warn("a warning", stacklevel=1)
    text = path.read_text()
    for part in (
        "lightning.pytorch: chatter of Lightning",
        "some.library: chatter of a library",
        "UserWarning: a warning",
    ):
        assert text.count(part) == 1
    assert "chatter" not in "".join(capsys.readouterr())
    assert warnings.showwarning is before
    assert levels == (logging.getLogger().level, lightning.level, [handler.level for handler in lightning.handlers])
