"""Files that a page of the documentation shows."""

import re
from pathlib import Path


def write_files(page: str, home: Path) -> None:
    """Write a page's module and its YAML file, each named `my_...` before its block, to a folder."""
    files = re.findall(r"`(my_\S+)`:\n\n```(?:python|yaml)\n(.*?)```", page, re.DOTALL)
    assert [Path(name).suffix for name, _ in files] == [".py", ".yaml"]
    for name, text in files:
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
