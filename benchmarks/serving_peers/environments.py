"""Virtual environments of the peers: made once below a cache folder, used again from then on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_MARK = "installed.json"
_INSTALL_LIMIT_S = 900.0


class PeerUnavailableError(Exception):
    """A peer cannot be installed or does not start; the message says why."""


def cache_folder() -> Path:
    """Where the environments lie, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "towncast" / "peers"


def environment(name: str, packages: Sequence[str], *, cache: Path | None = None) -> Path:
    """The Python of an environment that has some packages; made if it is not there.

    Args:
        name: Of the peer.
        packages: As pip takes them.
        cache: Folder of all environments, by default the user's cache.

    Raises:
        PeerUnavailableError: pip fails, or takes too long.
    """
    key = hashlib.sha256(json.dumps([sys.version, *packages]).encode()).hexdigest()[:8]
    folder = (cache or cache_folder()) / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / _MARK).exists():
        shutil.rmtree(folder, ignore_errors=True)
        # Filled by our own pip: installing one of its own takes longer than most peers do.
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        if packages:
            quiet = ["--quiet", "--disable-pip-version-check"]
            _run([sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, *packages])
        (folder / _MARK).write_text(json.dumps(versions(python, packages)), encoding="utf-8")
    return python


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each package, by its name."""
    names = [_bare(package) for package in packages]
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, str] = json.loads(_run([str(python), "-c", script, *names]))
    return found


def _bare(package: str) -> str:
    """Name of a package without its extras and its version."""
    return package.partition("==")[0].partition("[")[0]


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise PeerUnavailableError((error.stderr.strip().splitlines() or ["no message"])[-1]) from error
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailableError(f"{command[0]} took more than {_INSTALL_LIMIT_S:g} s") from error
    return done.stdout
