"""The history of aliases: who made which version champion when, and why; lines are added, never changed."""

from __future__ import annotations

import getpass
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from features.card import CHAMPION

_TAG = "alias_change."


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasChange:
    """One line of the history.

    Attributes:
        number: Its place, from 1.
        at: When [ISO 8601, UTC].
        alias: Which alias.
        action: `promote`, `rollback`, `nominate` or `withdraw`.
        by: Who ran it.
        from_version: Version that had the alias, None for none.
        to_version: Version that gets it, None for none.
        reason: Why.
        verdict_run_id: Run that keeps the verdict, empty where there is none.
        approved_by: Person who approved it, empty where nobody was asked.
        took: Whether the alias followed. A job that was killed between the line and the alias leaves a line that did
            not take; known when the history is read, not kept in it.
    """

    number: int
    at: str
    alias: str
    action: str
    by: str
    from_version: int | None
    to_version: int | None
    reason: str
    verdict_run_id: str = ""
    approved_by: str = ""
    took: bool = True

    def as_tag(self) -> tuple[str, str]:
        """Key and value of the tag that keeps it; two jobs at once may take the same number, never the same key."""
        kept = {name: value for name, value in asdict(self).items() if name != "took"}
        return f"{_TAG}{self.number:05d}.{uuid.uuid4().hex[:8]}", json.dumps(kept)


def read_history(tags: Mapping[str, str], aliases: Mapping[str, int]) -> tuple[AliasChange, ...]:
    """The history that a registered model's tags tell, oldest first.

    Args:
        tags: All tags of the registered model.
        aliases: Its aliases as they are now: they tell whether the last changes took.
    """
    changes = [AliasChange(**json.loads(value)) for key, value in tags.items() if key.startswith(_TAG)]
    changes.sort(key=lambda change: (change.number, change.at))
    after: dict[str, int | None] = {change.alias: aliases.get(change.alias) for change in changes}
    told = []
    for change in reversed(changes):
        # An alias that stands where it stood before the change did not follow it.
        told.append(replace(change, took=after[change.alias] != change.from_version))
        after[change.alias] = change.from_version
    return tuple(reversed(told))


def champions_in_line(history: Iterable[AliasChange], present: int | None) -> list[int]:
    """Versions that were champion and were not rolled back, oldest first, the present one last.

    Args:
        history: Changes of the aliases.
        present: The version that is champion now. A version that came to it without a line in the history counts too.
    """
    line: list[int] = []
    for change in history:
        if change.alias != CHAMPION:
            continue
        if change.from_version is not None and line[-1:] != [change.from_version]:
            line.append(change.from_version)
        if not change.took or change.to_version is None:
            continue
        if change.action == "rollback" and change.to_version in line:
            while line[-1] != change.to_version:
                line.pop()
        else:
            line.append(change.to_version)
    if present is not None and line[-1:] != [present]:
        line.append(present)
    return line


def who() -> str:
    """The user that runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container a process may run under a number that has no name.
        return f"uid {os.getuid()}"
