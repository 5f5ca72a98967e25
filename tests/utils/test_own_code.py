"""What the hash of a user's own code depends on."""

import importlib
import sys
from pathlib import Path

import pytest

from skiplab.utils.own_code import own_code

FILES = {
    "own_methods/__init__.py": "",
    "own_methods/loss.py": '''
"""A loss."""
import torch
from . import scale
from own_numbers import SMOOTHING

def loss(logits):
    """Of the logits."""
    from own_methods.late import more
    return more(SMOOTHING * scale.by(logits))
''',
    "own_methods/scale.py": "def by(x):\n    return 2 * x\n",
    "own_methods/late.py": "raise RuntimeError('it is read, not imported')\n",
    "own_methods/other.py": "A = 1\n",
    "own_numbers.py": "SMOOTHING = 0.1\n",
}


def code(folder: Path, **changed: str) -> dict[str, str]:
    for name, text in {**FILES, **{key.replace("__", "/") + ".py": value for key, value in changed.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    own_code.cache_clear()
    importlib.invalidate_caches()
    return dict(own_code("own_methods.loss", "own_methods"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_imports_of_own_modules_count_and_installed_ones_do_not(folder: Path) -> None:
    assert set(code(folder)) == {
        "own_methods", "own_methods.loss", "own_methods.scale", "own_methods.late", "own_numbers"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({"own_numbers": "SMOOTHING = 0.2\n"}, True),
        ({"own_methods__scale": "def by(x):\n    return 3 * x\n"}, True),
        ({"own_methods__late": "more = abs\n"}, True),
        ({"own_methods__other": "A = 2\n"}, False),
        ({"own_methods__loss": FILES["own_methods/loss.py"].replace("Of the", "# Of\n\n    the")}, False),
        ({"own_methods__scale": "# Twice.\ndef by(x):\n    '''Twice.'''\n    return (2 * x)\n"}, False),
        ({"own_numbers": "# Small.\nSMOOTHING = .1  # of labels\n"}, False),
    ],
)
def test_code_counts_and_comments_docstrings_and_layout_do_not(
    folder: Path, changed: dict[str, str], counts: bool
) -> None:
    assert (code(folder) != code(folder, **changed)) == counts


def test_skiplab_and_installed_packages_are_not_hashed() -> None:
    for module in ("skiplab.methods.skipdecode", "json", "lightning.pytorch.trainer", "no.module.of.this.name"):
        assert own_code(module, "own_methods") == {}
    assert set(own_code("baselines.multi_layer", "own_methods")) == {"baselines.multi_layer"}
    assert "iniconfig" in own_code("iniconfig", "iniconfig"), "the package of the method itself is hashed"
