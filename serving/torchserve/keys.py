"""TorchServe's key file: who may ask it what, read again whenever it changes.

TorchServe 0.12 makes three keys when it starts and writes them to `key_file.json` in its folder: one for predictions
and one for management, which end after a while, and one that replaces either of these, which does not. The replaced
key ends at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

KEY_FILE = "key_file.json"
Kind = Literal["inference", "management", "API"]
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key.

    Attributes:
        token: What is sent as `Authorization: Bearer <token>`.
        expires_s: When it ends [s since 1970]; None for the one that does not.
    """

    token: str
    expires_s: float | None


class KeyFile:
    """The keys as they are now; none where there is no file, which is where TorchServe asks for none.

    Args:
        path: The file; read when a key is asked for and it has changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: _Stamp | None = None
        self._keys: dict[str, Key] = {}

    def key(self, kind: Kind) -> Key | None:
        """A key as the file has it now."""
        try:
            found = self.path.stat()
        except OSError:
            self._seen, self._keys = None, {}
            return None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._seen:
            self._read(stamp)
        return self._keys.get(kind)

    def header(self, kind: Kind) -> dict[str, str]:
        """The header of a request; empty where there is no such key."""
        key = self.key(kind)
        return {} if key is None else {"Authorization": f"Bearer {key.token}"}

    def _read(self, stamp: _Stamp) -> None:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            keys = {kind: _key(entry) for kind, entry in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # TorchServe is writing it, which it does in place: the keys of before hold until the next look.
            return
        self._seen, self._keys = stamp, keys


def _key(entry: dict[str, str]) -> Key:
    token, expires = entry["key"], entry.get("expiration time")
    # A token ends up in a header: nothing but one word may.
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise ValueError("a key is not a word")
    return Key(token=token, expires_s=None if expires is None else datetime.fromisoformat(expires).timestamp())
