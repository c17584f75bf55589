"""Make the Python code of the `.proto` files in this folder: `python -m serving.messages.generate [--check]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from features.errors import TowncastError
from features.files import whole_file

FOLDER = Path(__file__).parent


class GenerationError(TowncastError):
    """The generated code cannot be made, or is not that of the `.proto` files."""


def generated_files(folder: Path = FOLDER) -> dict[str, bytes]:
    """The code of every `.proto` file in `folder`, by file name.

    Raises:
        GenerationError: The compiler is not installed, or refuses a file.
    """
    try:
        from grpc_tools import protoc
    except ImportError as error:
        raise GenerationError(
            "The Protobuf compiler is not installed", remedy="Install grpcio-tools (it is in the extra `dev`)."
        ) from error
    root = folder.parent.parent
    sources = [str(path.relative_to(root)) for path in sorted(folder.glob("*.proto"))]
    known_types = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as out:
        words = [f"--proto_path={root}", f"--proto_path={known_types}", f"--python_out={out}", f"--pyi_out={out}"]
        if protoc.main(["protoc", *words, *sources]) != 0:
            raise GenerationError("The Protobuf compiler refuses a file", remedy="It wrote above what is wrong.")
        return {path.name: path.read_bytes() for path in sorted(Path(out).rglob("*.py*"))}


def stale_files(folder: Path = FOLDER) -> list[str]:
    """Names of generated files that differ from what the `.proto` files give, or are missing.

    Raises:
        GenerationError: The compiler is not installed, or refuses a file.
    """
    present = {path.name: path.read_bytes() for path in folder.glob("*_pb2.py*")}
    made = generated_files(folder)
    return sorted(name for name in made.keys() | present.keys() if made.get(name) != present.get(name))


def main() -> None:
    """Write the generated code, or with `--check` only say whether it is the right one (exit status 1 if not)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where a file would change")
    stale = stale_files()
    if not parser.parse_args().check:
        made = generated_files()
        for name in stale:
            if name not in made:
                (FOLDER / name).unlink()
                continue
            with whole_file(FOLDER / name) as path:
                path.write_bytes(made[name])
        sys.stdout.write(f"written: {', '.join(stale) or 'nothing, all is as it should be'}\n")
    elif stale:
        sys.stderr.write(
            f"not what the .proto files give: {', '.join(stale)}; run python -m serving.messages.generate\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
