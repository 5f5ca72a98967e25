"""The pages of the site that are made from configuration files and notebooks."""

from pathlib import Path

import pytest
import yaml

from scripts.run_notebooks import FOLDER
from scripts.site_pages import ROOT, Value, configuration_page, notebook_page, values

FILES = sorted((ROOT / "experiments").rglob("*.yaml"))


def keys(node: object, prefix: str = "") -> set[str]:
    """Dotted keys of a file's values."""
    if not isinstance(node, dict):
        return set()
    skipped = ("defaults", "description", "hydra", "_target_")
    found: set[str] = set()
    for key, value in node.items():
        if key not in skipped:
            nested = isinstance(value, dict) and value
            found |= keys(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_value_of_a_file_is_there_with_its_value(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    found = {one.key: one for one in values(path)}
    assert keys(content) <= found.keys()
    for key in keys(content):
        node = content
        for part in key.split("."):
            node = node[part]
        assert yaml.safe_load(found[key].value or "''") == ("" if node == "" else node)


def test_a_value_has_its_comment_else_its_classs_words(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "base.py").write_text(
        'class Base:\n    """A base.\n\n    Args:\n        width: None is any,\n            of all.\n    """\n'
    )
    (tmp_path / "package" / "own.py").write_text(
        "from package.base import Base\n\n\nclass Own(Base):\n"
        '    """Own.\n\n    Args:\n        depth, height: in metres.\n        setup: of the run.\n    """\n'
    )
    path = tmp_path / "one.yaml"
    path.write_text(
        "# About the file.\n_target_: package.own.Own\ndepth: 1\n# Our choice\n# of it.\nheight: [1,\n  2]\n"
    )
    assert values(path, "x.", tmp_path) == [
        Value("x.depth", "1", "In metres."),
        Value("x.height", "[1, 2]", "Our choice of it."),
        Value("x.width", "", "Null is any, of all."),
    ]


def test_the_page_has_every_group_and_file() -> None:
    page = configuration_page()
    for path in FILES:
        if path.name != "config.yaml":
            assert f"### {path.parent.name}: {path.stem}\n" in page
    assert "| `trainer.batch_size` | `32` | Examples per optimizer step, over all processes. |" in page
    assert "| `backbone.num_layers` | `12` |" in page
    assert "| `benchmark.rounds` | `7` |" in page


def test_a_notebook_becomes_a_page_with_its_outputs() -> None:
    page = notebook_page(FOLDER / "schedule_from_scratch.ipynb")
    assert page.startswith("# A schedule from scratch")
    assert "```python\nfrom skiplab.schedules.exit_schedule import decode_steps" in page
    assert "```text\nstep  0: 12 layers" in page
    assert "](data:image/png;base64," in page
