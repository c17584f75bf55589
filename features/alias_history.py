"""The history of aliases: who made which version champion when, and why; lines are added, never changed.

Training, serving and the command line change aliases by `change_alias` alone, so that all of them leave the same lines.
"""

from __future__ import annotations

import getpass
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from features.card import CHAMPION
from features.errors import InvalidParameterError, PromotionError

# Alias of the version that passed the gate and waits for a person, and the tag of such a version.
CANDIDATE = "candidate"
AWAITING_TAG = "awaiting_approval"
_TAG = "alias_change."
# A tag's value holds 5,000 characters in MLflow's databases.
_LONGEST_REASON = 1000


class AliasStore(Protocol):
    """What is asked of a client of MLflow."""

    def get_registered_model(self, name: str) -> Any:
        """A registered model with its `tags` and `aliases`."""

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        """Write a tag."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Give a version an alias."""

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away."""

    def delete_model_version_tag(self, name: str, version: str, key: str) -> None:
        """Take a version's tag away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasChange:
    """One line of the history.

    Attributes:
        number: Its place, from 1.
        at: When [ISO 8601, UTC].
        alias: Which alias.
        action: `promote`, `rollback`, `nominate`, `release` or `withdraw`.
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


def change_alias(
    store: AliasStore,
    name: str,
    alias: str,
    version: int | None,
    *,
    action: str,
    reason: str,
    verdict_run_id: str = "",
    approved_by: str = "",
) -> AliasChange:
    """Write a change into the history, then do it: a crash between leaves a line, never an unexplained alias.

    Args:
        store: MLflow.
        name: The registered model.
        alias: Which alias.
        version: Version that gets it, None for none.
        action: See `AliasChange`.
        reason: Why.
        verdict_run_id: Run that keeps the verdict, empty where there is none.
        approved_by: Person who approved it, empty where nobody was asked.

    Raises:
        InvalidParameterError: The reason is too long.
    """
    if len(reason) > _LONGEST_REASON:
        raise InvalidParameterError(
            parameter="reason",
            provided=f"{reason[:40]}...",
            allowed=f"at most {_LONGEST_REASON} characters",
            fact="The reason is too long for the history",
            remedy=f"Say it in {_LONGEST_REASON} characters.",
        )
    model = store.get_registered_model(name)
    aliases = {known: int(number) for known, number in model.aliases.items()}
    past = read_history(model.tags, aliases)
    change = AliasChange(
        number=1 + max((before.number for before in past), default=0),
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        alias=alias,
        action=action,
        by=who(),
        from_version=aliases.get(alias),
        to_version=version,
        reason=reason,
        verdict_run_id=verdict_run_id,
        approved_by=approved_by,
    )
    store.set_registered_model_tag(name, *change.as_tag())
    if version is None:
        store.delete_registered_model_alias(name, alias)
    else:
        store.set_registered_model_alias(name, alias, str(version))
    return change


def make_champion(
    store: AliasStore, name: str, version: int, *, reason: str, verdict_run_id: str = "", approved_by: str = ""
) -> AliasChange:
    """Make a version champion; where it was the candidate, it is that no more.

    Raises:
        PromotionError: It is champion already.
        InvalidParameterError: The reason is too long.
    """
    aliases = store.get_registered_model(name).aliases
    if CHAMPION in aliases and int(aliases[CHAMPION]) == version:
        raise PromotionError(
            f"Version {version} of {name} is champion already", remedy="See `towncast aliases` for how it came to it."
        )
    change = change_alias(
        store,
        name,
        CHAMPION,
        version,
        action="promote",
        reason=reason,
        verdict_run_id=verdict_run_id,
        approved_by=approved_by,
    )
    if CANDIDATE in aliases and int(aliases[CANDIDATE]) == version:
        withdraw_candidate(store, name, version, reason="promoted")
    return change


def withdraw_candidate(store: AliasStore, name: str, version: int, *, reason: str) -> None:
    """Let the candidate be none any more."""
    change_alias(store, name, CANDIDATE, None, action="withdraw", reason=reason)
    store.delete_model_version_tag(name, str(version), AWAITING_TAG)
