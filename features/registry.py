"""Names to entries: a duplicate raises, an unknown name answers with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from features.errors import DuplicateNameError, UnknownNameError

Entry = TypeVar("Entry")


def nearest_names(name: str, known: Sequence[str], *, most: int = 3) -> list[str]:
    """The known names that look most like `name`, best first, upper and lower case being equal."""
    folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), list(folded), n=most, cutoff=0.5)
    return [folded[match] for match in matches]


class Registry(Generic[Entry]):
    """A table of named entries of one kind.

    Args:
        kind: What an entry is called in messages, such as "domain".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Add `entry` under `name` and return it.

        Raises:
            DuplicateNameError: The name is taken.
        """
        if name in self._entries:
            raise DuplicateNameError(
                f"The {self._kind} is registered already",
                found=repr(name),
                remedy="Choose another name, or remove the first registration.",
            )
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> Entry:
        """The entry called `name`.

        Raises:
            UnknownNameError: No entry has that name; the message names near ones.
        """
        try:
            return self._entries[name]
        except KeyError:
            known = list(self._entries)
            raise UnknownNameError(
                kind=self._kind, name=name, nearest=nearest_names(name, known), known=known
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def values(self) -> Iterator[Entry]:
        """The entries, in order of registration."""
        return iter(self._entries.values())
