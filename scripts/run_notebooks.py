"""Runs the notebooks of the documentation and writes their outputs into them: `python scripts/run_notebooks.py`.

It needs the extra `docs`.
"""

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
# The most seconds of a cell.
_PATIENCE = 240


def run(path: Path) -> Any:
    """The notebook with the outputs of its cells, which a kernel runs in the notebook's folder.

    Raises:
        CellExecutionError: a cell raised an error.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=_PATIENCE, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    return client.execute()


def texts(notebook: Any) -> list[list[str]]:
    """What each code cell printed or returned, without pictures."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            outputs = [one for one in cell["outputs"] if one.get("name") != "stderr"]
            found.append(["".join(one.get("text") or one["data"]["text/plain"]) for one in outputs])
    return found


def main() -> None:
    import nbformat

    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = run(path)
        # Its version is this machine's.
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
