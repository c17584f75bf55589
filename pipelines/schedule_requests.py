"""Retrainings that people ask for: files, which a running schedule takes up."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from features.domains import DOMAINS
from features.errors import TowncastError
from features.files import whole_file
from pipelines.schedule_settings import ScheduleSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A retraining that a person asks for; a file in the folder of requests.

    Attributes:
        domain: What is to be retrained.
        reason: Why.
        by: Who asks.
    """

    domain: str
    reason: str
    by: str = ""

    @property
    def words(self) -> str:
        """Why, and who asks, for people."""
        return f"{self.reason or 'asked for'}, {self.by}" if self.by else self.reason or "asked for"


_REQUEST = TypeAdapter(Request)


def ask_for_retraining(domain: str, reason: str, *, by: str, settings: ScheduleSettings) -> Path:
    """Ask a running schedule to retrain a domain; it does within a minute. The file of the request.

    Raises:
        UnknownNameError: There is no such domain.
        StorageError: The folder cannot be written.
    """
    request = Request(domain=DOMAINS[domain].name, reason=reason, by=by)
    path = _folder(settings) / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(request)), encoding="utf-8")
    return path


def requests(settings: ScheduleSettings) -> Iterator[tuple[Path, Request]]:
    """What is asked for, oldest first, each with its file; one that cannot be read is put aside, which the log says."""
    for path in sorted(_folder(settings).glob("[0-9]*.json")):
        try:
            request = _REQUEST.validate_json(path.read_bytes())
            DOMAINS[request.domain]
        except (OSError, ValueError, TowncastError) as error:
            _LOG.warning("A request cannot be read, and is put aside: %s: %s", path, error)
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".unreadable"))
            continue
        yield path, request


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One retraining, however many people ask for it.

    Attributes:
        domain: What is to be retrained.
        reason: All reasons.
        files: The requests, which are removed when it is done.
    """

    domain: str
    reason: str
    files: tuple[Path, ...]

    def remove(self) -> None:
        """Remove the requests."""
        for path in self.files:
            with contextlib.suppress(OSError):
                path.unlink()


def asked_for(settings: ScheduleSettings) -> list[Asked]:
    """One retraining for each domain that requests name, the oldest first."""
    by_domain: dict[str, list[tuple[Path, Request]]] = {}
    for path, request in requests(settings):
        by_domain.setdefault(request.domain, []).append((path, request))
    return [
        Asked(
            domain=domain,
            reason="; ".join(dict.fromkeys(request.words for _, request in several)),
            files=tuple(path for path, _ in several),
        )
        for domain, several in by_domain.items()
    ]


def _folder(settings: ScheduleSettings) -> Path:
    return settings.schedule_dir / "requests"
