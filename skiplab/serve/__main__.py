"""`python -m skiplab.serve FOLDER`: a saved method behind OpenAI's interface."""

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from skiplab.backbones.whole_weights import CheckpointError
from skiplab.export.saved_method import load_method
from skiplab.serve.limits import Limits


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; exit code 1 with one line on stderr if it cannot."""
    given = _parser().parse_args(arguments)
    try:
        import uvicorn

        from skiplab.serve.app import make_app
    except ImportError as error:
        print(f"the server needs the extra: pip install 'skiplab[serve]' ({error})", file=sys.stderr)
        return 1
    try:
        limits = Limits(**{field.name: getattr(given, field.name) for field in fields(Limits)})
        options = {name: getattr(given, name) for name in ("device", "dtype", "fast", "draft", "trust")}
        method = load_method(given.folder, **options)
    except (CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    name = given.name or Path(given.folder).resolve().name
    print(f"{name} is served on http://{given.host}:{given.port}/v1", file=sys.stderr)
    uvicorn.run(make_app(method, name, limits), host=given.host, port=given.port, log_level="warning")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skiplab.serve", description="Serve a saved method.")
    parser.add_argument("folder", help="a folder that save_models=true or experiment=export wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no authentication")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--name", help="of the model; the folder's name by default")
    parser.add_argument("--device", help="cpu, cuda or cuda:NUMBER; a GPU by default if there is one")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 or int8; the folder's by default")
    parser.add_argument(
        "--draft", type=json.loads, metavar="JSON", help='draft tokens with some layers, such as {"speedup": 3}'
    )
    parser.add_argument("--trust", action="append", default=[], help="a package of your own whose method it is")
    parser.add_argument("--no-fast", dest="fast", action="store_false", help="no packed weights, no recorded steps")
    for field in fields(Limits):
        default = None if field.default is MISSING else field.default
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
