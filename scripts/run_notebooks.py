"""Runs the notebooks of the documentation and writes their outputs into them: `python scripts/run_notebooks.py`.

It needs no Jupyter: cells are plain Python, run in one namespace in the notebook's folder. Outputs are what they print,
the value of their last expression, and the figures that matplotlib holds.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run(path: Path) -> dict[str, Any]:
    """The notebook with the outputs of its cells, which are run in order.

    Raises:
        Exception: whatever a cell raises.
    """
    notebook = json.loads(path.read_text())
    namespace: dict[str, Any] = {"__name__": "__main__"}
    os.environ["MPLBACKEND"] = "Agg"
    with contextlib.chdir(path.parent):
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, cell in enumerate(code, start=1):
            cell["execution_count"] = number
            cell["outputs"] = _outputs("".join(cell["source"]), namespace, number)
    return notebook


def texts(notebook: dict[str, Any]) -> list[list[str]]:
    """What each code cell printed or returned, without pictures."""
    return [
        ["".join(one.get("text") or one["data"]["text/plain"]) for one in cell["outputs"]]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def _outputs(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    *statements, last = ast.parse(source).body or [ast.Pass()]
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(statements, []), f"<cell {number}>", "exec"), namespace)
        # As in Jupyter, a semicolon at the end hides the value.
        if isinstance(last, ast.Expr) and not source.rstrip().endswith(";"):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), namespace)
        else:
            exec(compile(ast.Module([last], []), f"<cell {number}>", "exec"), namespace)
    found: list[dict[str, Any]] = []
    if text := printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        lines = repr(value).splitlines(keepends=True)
        data = {"text/plain": lines}
        found.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return [*found, *_figures()]


def _figures() -> Iterator[dict[str, Any]]:
    """The figures that matplotlib holds, which are then closed."""
    if "matplotlib.pyplot" not in sys.modules:
        return
    from matplotlib import pyplot

    for place in pyplot.get_fignums():
        figure, image = pyplot.figure(place), io.BytesIO()
        figure.savefig(image, format="png", dpi=80, bbox_inches="tight", metadata={"Software": None})
        name = figure.axes[0].get_title() or "figure"
        data = {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": [name]}
        yield {"output_type": "display_data", "metadata": {}, "data": data}
    pyplot.close("all")


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        path.write_text(json.dumps(run(path), indent=1, ensure_ascii=False) + "\n")
        print(path)


if __name__ == "__main__":
    main()
