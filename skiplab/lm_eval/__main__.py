"""`python -m skiplab.lm_eval ...`: the harness's command line, which then knows the model `skiplab` and its tasks."""

import sys
from pathlib import Path

from lm_eval.__main__ import cli_evaluate

import skiplab.lm_eval

TASKS = Path(__file__).with_name("tasks")
assert skiplab.lm_eval.SavedMethodLM


def main() -> None:
    """Run the harness on the process's arguments."""
    if "--include_path" not in sys.argv and len(sys.argv) > 1:
        sys.argv += ["--include_path", str(TASKS)]
    cli_evaluate()


if __name__ == "__main__":
    main()
