"""What every simulator promises, and a public check that it keeps it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd
import psutil

from features.errors import InvalidParameterError, TowncastError
from features.readings import READING_COLUMNS, content_hash
from features.registry import Registry
from features.vocabulary import Domain, Site

Scenario = TypeVar("Scenario")
_SOURCE = re.compile(r"sim:[a-z0-9_]+:[^@\s]+@[0-9a-f]{8,}")


class Simulator(Protocol[Scenario]):
    """Makes readings from a scenario; its constructor does no work.

    A scenario is a frozen dataclass of plain values. The same scenario and the same state of `rng` give the same
    readings, in another process too.
    """

    @property
    def domain(self) -> Domain:
        """Whose readings a rollout gives."""

    def scenarios(self) -> Mapping[str, Scenario]:
        """Ready-made scenarios by name, the usual one first."""

    def sites(self, scenario: Scenario) -> list[Site]:
        """The sites that a rollout of `scenario` names."""

    def rollout(self, scenario: Scenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Readings of a whole run, columns as in `features.readings.READING_COLUMNS`, canonical units."""


SIMULATORS: Registry[Simulator[Any]] = Registry("simulator")


@runtime_checkable
class Conserving(Protocol):
    """A simulator of something that cannot come from nowhere: vehicles, water."""

    def imbalance(self, scenario: Any, *, rng: np.random.Generator) -> float:
        """What went in and neither came out nor is there, over what went in; 0 for a sound simulator."""


# Rounding of sums of volumes; of vehicles, none may be lost.
LARGEST_IMBALANCE = 1e-9


class SimulatorError(TowncastError):
    """A simulator breaks its promise."""


def scenario_source(engine: str, name: str, scenario: Any) -> str:
    """`sim:<engine>:<name>@<hash>`, the hash being that of all the scenario's values (8 hexadecimal digits)."""
    content = json.dumps(dataclasses.asdict(scenario), sort_keys=True)
    return f"sim:{engine}:{name}@{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def require_in_scenario(kept: bool, name: str, provided: object, allowed: str) -> None:
    """Refuse a scenario whose value `name` cannot be.

    Raises:
        InvalidParameterError: `kept` is false.
    """
    if not kept:
        raise InvalidParameterError(
            parameter=f"scenario.{name}",
            provided=provided,
            allowed=allowed,
            fact=f"The scenario's {name} cannot be",
            remedy=f"Give {allowed}.",
        )


def scenario_start(start: str) -> pd.Timestamp:
    """A scenario's first moment in UTC.

    Raises:
        InvalidParameterError: It is no moment, or not a whole hour.
    """
    try:
        moment = pd.Timestamp(start)
    except ValueError:
        moment = pd.NaT  # type: ignore[assignment]
    require_in_scenario(not pd.isna(moment), "start", start, "ISO 8601, such as 2025-01-06T00:00:00Z")
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    require_in_scenario(moment == moment.floor("h"), "start", start, "a whole hour UTC")
    return moment


def check_simulator(
    simulator: Simulator[Scenario], scenario: Scenario, *, seed: int = 0, elsewhere: bool = True
) -> None:
    """Check that a simulator keeps the promises of `Simulator` on one scenario.

    Checked are: the same seed gives the same readings, in another process too, and another seed others; rows have the
    columns of readings, quantities of the domain and values inside their bounds; no row is available before it is true,
    none comes twice; the source is well formed; the sites are exactly those that `sites` names; what a simulator
    conserves is conserved (`Conserving`); and a rollout leaves no process and no temporary file behind.

    Args:
        simulator: What is checked.
        scenario: On which scenario.
        seed: Of the first rollout.
        elsewhere: Whether to roll out in another process too, which takes seconds.

    Raises:
        SimulatorError: A promise is broken; the message says which.
    """
    with _nothing_left():
        readings = simulator.rollout(scenario, rng=np.random.default_rng(seed))
        _require(
            tuple(readings.columns) == READING_COLUMNS, "A rollout has other columns than readings", readings.columns
        )
        _require(len(readings) > 0, "A rollout is empty", 0)
        _check_seeds(simulator, scenario, content_hash(readings), seed=seed, elsewhere=elsewhere)
        if isinstance(simulator, Conserving):
            lost = simulator.imbalance(scenario, rng=np.random.default_rng(seed))
            _require(lost <= LARGEST_IMBALANCE, "What goes in neither comes out nor is there", lost)
    _check_rows(simulator, readings)
    sites = {site.name for site in simulator.sites(scenario)}
    _require(set(readings["site"]) == sites, "The sites differ from the named ones", set(readings["site"]) ^ sites)


def _check_seeds(
    simulator: Simulator[Scenario], scenario: Scenario, expected: str, *, seed: int, elsewhere: bool
) -> None:
    other = simulator.rollout(scenario, rng=np.random.default_rng(seed + 1))
    _require(content_hash(other) != expected, "Another seed gives the same readings", seed + 1)
    _require(_rollout_hash(simulator, scenario, seed) == expected, "The same seed gives other readings", seed)
    if elsewhere:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            distant = pool.submit(_rollout_hash, simulator, scenario, seed).result()
        _require(distant == expected, "The same seed gives other readings in another process", seed)


def _rollout_hash(simulator: Simulator[Scenario], scenario: Scenario, seed: int) -> str:
    return content_hash(simulator.rollout(scenario, rng=np.random.default_rng(seed)))


def _check_rows(simulator: Simulator[Any], readings: pd.DataFrame) -> None:
    by_name = {quantity.name: quantity for quantity in simulator.domain.quantities}
    unknown = set(readings["quantity"]) - set(by_name)
    _require(not unknown, "A rollout names quantities that the domain lacks", unknown)
    for name, rows in readings.groupby("quantity"):
        quantity = by_name[str(name)]
        inside = rows["value"].between(quantity.lower, quantity.upper)
        _require(bool(inside.all()), f"{name} leaves its bounds", rows["value"][~inside].tolist()[:3])
    late = readings["available_at"] >= readings["valid_at"]
    _require(bool(late.all()), "A reading is available before it is true", int((~late).sum()))
    twice = readings.duplicated(["site", "quantity", "valid_at", "available_at"])
    _require(not twice.any(), "A reading comes twice", int(twice.sum()))
    malformed = [source for source in set(readings["source"]) if not _SOURCE.fullmatch(source)]
    _require(not malformed, "A source is not sim:<engine>:<scenario>@<hash>", malformed)


@contextlib.contextmanager
def _nothing_left() -> Iterator[None]:
    """What runs inside must leave no process, and no file where temporary files go.

    Raises:
        SimulatorError: It does.
    """
    here, usual = psutil.Process(), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="towncast-check-") as scratch:
        before = {child.pid for child in here.children(recursive=True)}
        tempfile.tempdir = scratch
        try:
            yield
        finally:
            tempfile.tempdir = usual
        # Python's own tracker of shared resources stays, once another process was spawned.
        left = [child for child in here.children(recursive=True) if child.pid not in before]
        left = [child for child in left if "resource_tracker" not in " ".join(child.cmdline())]
        _require(not left, "A rollout leaves a process behind", [child.name() for child in left])
        files = sorted(path.name for path in Path(scratch).iterdir())
        _require(not files, "A rollout leaves temporary files behind", files)


def _require(kept: bool, fact: str, found: object) -> None:
    if not kept:
        raise SimulatorError(fact, found=found, remedy="Mend the simulator: see sim_env.simulator.Simulator.")
