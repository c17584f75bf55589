"""What is replayed, and how it reaches the running API: readings by `POST /readings`, questions by `POST /predict`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from features.domains import DOMAINS
from features.errors import InvalidParameterError, TowncastError
from features.files import make_folder
from features.sources import find_published
from features.sources.parsed import Parsed, join_rejected
from features.store import ReadingStore
from features.vocabulary import Domain, Site

_POSTED_AT_ONCE = 5_000
_READY_S = 180.0
_GRACE_S = 20.0
# How each domain's questions name their place.
_PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "traffic": lambda site: {"location": {"road_id": site}},
    "water": lambda site: {"zone_id": site},
}
REPLAYED = tuple(_PLACES)


class RehearsalError(TowncastError):
    """The API under rehearsal ended, or did not answer as it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The readings of a rehearsal.

    Attributes:
        domain: What is forecast.
        sites: Where.
        readings: Columns as in `READING_COLUMNS`, in the order in which they became known.
    """

    domain: Domain
    sites: tuple[Site, ...]
    readings: pd.DataFrame

    @property
    def timezone(self) -> str:
        """Local clock of the first site."""
        return self.sites[0].timezone

    def until(self, moment: pd.Timestamp) -> pd.DataFrame:
        """What was known by a moment, that included."""
        return self.readings[self.readings["available_at"] <= moment]

    def between(self, begin: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
        """What became known after `begin` and by `end`."""
        known = self.readings["available_at"]
        return self.readings[(known > begin) & (known <= end)]

    def as_parsed(self, readings: pd.DataFrame) -> Parsed:
        """Some of its readings, as a reader gives them to the ingest job."""
        return Parsed(readings=readings, rejected=join_rejected([]), sites=list(self.sites), rows=len(readings))


def published_story(domain: Domain, data: Path) -> Story:
    """The readings of a published data set, in a folder or under it.

    Raises:
        DataError: Nothing in the folder is recognised.
    """
    parsed = find_published(domain, data).read(data)
    return _story(domain, parsed.sites, parsed.readings)


def stored_story(store: ReadingStore) -> Story:
    """The readings of a store, as they were first told.

    Raises:
        InvalidParameterError: It holds none.
    """
    if not store.sites():
        raise InvalidParameterError(
            parameter="data",
            provided=str(store.folder),
            allowed="a store with readings",
            fact="There are no readings to replay",
            remedy="Name a folder with --data.",
        )
    return _story(store.domain, list(store.sites().values()), store.readings(columns=("value", "source")))


def _story(domain: Domain, sites: Sequence[Site], readings: pd.DataFrame) -> Story:
    if domain.name not in _PLACES:
        raise InvalidParameterError(
            parameter="domain",
            provided=domain.name,
            allowed=list(_PLACES),
            fact="This domain is not rehearsed",
            remedy=f"Use one of {', '.join(_PLACES)}.",
        )
    first = readings.drop_duplicates(["site", "quantity", "valid_at"], keep="first")
    ordered = first.sort_values(["available_at", "valid_at", "site", "quantity"], kind="stable", ignore_index=True)
    named = set(ordered["site"])
    return Story(domain=domain, sites=tuple(site for site in sites if site.name in named), readings=ordered)


class ReplayApi:
    """`towncast serve` in a process of its own on a free port of loopback, and its client.

    Args:
        environment: Variables of the process besides those of this one; its folders are in there.
        log: File for what it prints.
    """

    def __init__(self, environment: Mapping[str, str], *, log: Path) -> None:
        self.environment = dict(environment)
        self.log = log
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def __enter__(self) -> ReplayApi:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            RehearsalError: It ended, or was not ready in time.
        """
        self.port = _free_port()
        make_folder(self.log.parent)
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", "serve", "--no-torchserve"]
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60.0, trust_env=False)
        self._wait(lambda: self._client is not None and self._client.get("/health/ready").status_code == httpx.codes.OK)

    def stop(self) -> None:
        """Stop it; twice does nothing."""
        if self._client is not None:
            self._client.close()
            self._client = None
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def send(self, domain: str, readings: pd.DataFrame) -> dict[str, int]:
        """Post readings with both of their clocks; how many were stored, known before, and quarantined.

        Raises:
            RehearsalError: They were refused as a whole.
        """
        counts = {"stored": 0, "known": 0, "quarantined": 0}
        for part in _parts(readings):
            reply = self._post("/readings", {"readings": _items(domain, part)})
            for name in counts:
                counts[name] += int(reply[name])
        return counts

    def ask(self, domain: Domain, sites: Sequence[str]) -> dict[str, str]:
        """Ask for the longest forecast of each site; the model versions that answered, by site.

        A site that cannot be forecast now is left out.

        Raises:
            RehearsalError: The questions were refused as a whole.
        """
        horizon = max(domain.horizons, key=lambda name: domain.horizons[name])
        asked = [{**_PLACES[domain.name](site), "forecast_horizon": horizon} for site in sites]
        results = self._post(f"{domain.api_path}/batch", {"requests": asked})["results"]
        pairs = zip(sites, results, strict=True)
        return {site: str(one["model_version"]) for site, one in pairs if "model_version" in one}

    def wait_for_model(self, domain: Domain, version: str, *, timeout_s: float = 60.0) -> None:
        """Wait until a version answers.

        Raises:
            RehearsalError: It does not in time.
        """
        self._wait(lambda: version in self._champions(domain), timeout_s=timeout_s)

    def _champions(self, domain: Domain) -> set[str]:
        assert self._client is not None, "the API was not started"
        return set(_versions(self._client.get("/health/ready").json()["domains"][domain.name]))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._client is not None, "the API was not started"
        try:
            answer = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            raise self._failed(f"{path}: {error!r}") from error
        if answer.status_code != httpx.codes.OK:
            raise self._failed(f"{path}: status {answer.status_code} {answer.text[:300]}")
        content: dict[str, Any] = answer.json()
        return content

    def _wait(self, ready: Callable[[], bool], *, timeout_s: float = _READY_S) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                raise self._failed("it ended")
            with contextlib.suppress(httpx.HTTPError):
                if ready():
                    return
            time.sleep(0.1)
        raise self._failed(f"not ready after {timeout_s:g} s")

    def _failed(self, found: str) -> RehearsalError:
        return RehearsalError(
            "The API under rehearsal does not answer",
            found=found,
            remedy=f"Its last words are in {self.log}. The same command goes on where it stopped.",
        )


def _versions(state: dict[str, Any]) -> Iterator[str]:
    for model in state["models"].values():
        if model.get("model_version"):
            yield str(model["model_version"])


def _items(domain: str, readings: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as `POST /readings` takes them."""
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    columns = (
        readings["site"],
        readings["quantity"],
        readings["valid_at"].dt.strftime(form),
        readings["available_at"].dt.strftime(form),
        readings["value"].astype(float),
        readings["source"],
    )
    return [
        {
            "domain": domain,
            "site": site,
            "quantity": quantity,
            "timestamp": valid,
            "available_at": known,
            "value": value,
            "source": source,
        }
        for site, quantity, valid, known, value, source in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _parts(readings: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for first in range(0, len(readings), _POSTED_AT_ONCE):
        yield readings.iloc[first : first + _POSTED_AT_ONCE]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def domain_of(name: str) -> Domain:
    """A domain that is rehearsed.

    Raises:
        InvalidParameterError: It is none.
        UnknownNameError: There is no such domain.
    """
    domain = DOMAINS[name]
    if name not in REPLAYED:
        raise InvalidParameterError(
            parameter="domain",
            provided=name,
            allowed=list(REPLAYED),
            fact="This domain is not rehearsed",
            remedy=f"Use one of {', '.join(REPLAYED)}.",
        )
    return domain
