"""How far a join has come: a small file, whole. Without it everything is looked at again, and nothing is doubled."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from features.files import whole_file

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinState:
    """What the join before has seen.

    Attributes:
        at_s: The present at that join [s since 1970], None before the first.
        joined_s: Latest `joined_s` that was given: it never runs back, whatever clocks do [s since 1970].
        steps: Steps ahead that were kept.
        made_by_hour: Forecasts of the log that were read, by the hour in which they were made [h since 1970].
        counted_s: When all hours of the log were counted last [s since 1970].
        seen: Names the readings that were looked at.
        early: Steps by site whose readings came before they had ended [steps since 1970].
        waiting: Steps that waited, None where that is not known.
        given_up_s: Steps of up to this moment were given up where they had no actual [s since 1970].
        last_s: Of each site the time of the last actual, at first of the first forecast [s since 1970].
        simulated: Of each site with readings whether these are simulated.
    """

    at_s: float | None = None
    joined_s: float = 0.0
    steps: tuple[int, ...] = ()
    made_by_hour: Mapping[int, int] = field(default_factory=dict)
    counted_s: float = 0.0
    seen: frozenset[str] = frozenset()
    early: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    waiting: int | None = None
    given_up_s: float | None = None
    last_s: Mapping[str, int] = field(default_factory=dict)
    simulated: Mapping[str, bool] = field(default_factory=dict)


_STATE = TypeAdapter(JoinState)


def read_state(path: Path) -> JoinState:
    """The state in a file; a fresh one where there is none, or it cannot be read, which the log says."""
    try:
        return _STATE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return JoinState()
    except ValidationError as error:
        _LOG.warning("%s cannot be read, all is joined again: %s", path, str(error).splitlines()[0])
        return JoinState()


def write_state(path: Path, state: JoinState) -> None:
    """Keep a state.

    Raises:
        StorageError: The folder cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(_STATE.dump_json(state))
