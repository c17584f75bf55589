"""What every simulator promises, and a public check that it keeps it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from features.errors import TowncastError
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


class SimulatorError(TowncastError):
    """A simulator breaks its promise."""


def scenario_source(engine: str, name: str, scenario: Any) -> str:
    """`sim:<engine>:<name>@<hash>`, the hash being that of all the scenario's values (8 hexadecimal digits)."""
    content = json.dumps(dataclasses.asdict(scenario), sort_keys=True)
    return f"sim:{engine}:{name}@{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def check_simulator(simulator: Simulator[Scenario], scenario: Scenario, *, seed: int = 0) -> None:
    """Check that a simulator keeps the promises of `Simulator` on one scenario.

    Checked are: the same seed gives the same readings and another seed others; rows have the columns of readings,
    quantities of the domain and values inside their bounds; no row is available before it is true, none comes twice;
    the source is well formed; and the sites are exactly those that `sites` names.

    Raises:
        SimulatorError: A promise is broken; the message says which.
    """
    readings = simulator.rollout(scenario, rng=np.random.default_rng(seed))
    _require(tuple(readings.columns) == READING_COLUMNS, "A rollout has other columns than readings", readings.columns)
    _require(len(readings) > 0, "A rollout is empty", 0)
    again = simulator.rollout(scenario, rng=np.random.default_rng(seed))
    other = simulator.rollout(scenario, rng=np.random.default_rng(seed + 1))
    _require(content_hash(again) == content_hash(readings), "The same seed gives other readings", seed)
    _require(content_hash(other) != content_hash(readings), "Another seed gives the same readings", seed + 1)

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
    sources = set(readings["source"])
    malformed = [source for source in sources if not _SOURCE.fullmatch(source)]
    _require(not malformed, "A source is not sim:<engine>:<scenario>@<hash>", malformed)
    sites = {site.name for site in simulator.sites(scenario)}
    _require(set(readings["site"]) == sites, "The sites differ from the named ones", set(readings["site"]) ^ sites)


def _require(kept: bool, fact: str, found: object) -> None:
    if not kept:
        raise SimulatorError(fact, found=found, remedy="Mend the simulator: see sim_env.simulator.Simulator.")
