"""The reference has every module with public names, once."""

from importlib.util import find_spec
from pathlib import Path

from scripts.site_reference import has_public_names, module_pages

ROOT = Path(__file__).parents[2]


def documented(markdown: str) -> list[str]:
    return [line.removeprefix("::: ") for line in markdown.splitlines() if line.startswith("::: ")]


def test_every_module_is_on_one_page() -> None:
    written = [name for page in (ROOT / "docs" / "reference").glob("*.md") for name in documented(page.read_text())]
    made = [name for page in module_pages().values() for name in documented(page)]
    assert len(set(made)) == len(made)
    assert not set(made) & set(written)
    assert {"skiplab.engine.live_rows", "skiplab.training.trainer", "skiplab.utils.suggestions"} <= set(made)
    assert all(find_spec(name.removesuffix(".DecodeResult")) for name in written)


def test_a_module_of_private_names_is_left_out(tmp_path: Path) -> None:
    for name, source in (("one", "def f() -> None: ...\n"), ("two", "_A = 1\n"), ("three", "B: int = 1\n")):
        path = tmp_path / "skiplab" / "part" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        assert has_public_names(source) == (name != "two")
    (page,) = module_pages(tmp_path).items()
    assert page[0] == "skiplab.part"
    assert documented(page[1]) == ["skiplab.part.one", "skiplab.part.three"]
