"""A rollout of SUMO over hours and weeks: what drives it, and what every road saw hour by hour.

Array names carry their axes: E roads, P control points, T hours.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sim_env.simulator import scenario_source
from sim_env.traffic.engine import Edge, EngineError, VehicleCounts
from sim_env.traffic.shapes import Array
from sim_env.traffic.sumo import EdgeData, SumoEngine, read_edge_data
from sim_env.traffic.town_network import build_town
from sim_env.traffic.town_scenario import QUARTER_S, QUARTERS, Drawn, TownScenario, draw

_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TownRun:
    """What happened, without any sensor between.

    Attributes:
        scenario: What was run.
        edges: All roads.
        volume_ET: Vehicles that came onto a road [veh/h].
        speed_ET_km_per_h: Their mean speed, NaN where there was none [km/h].
        entered_PT: Vehicles that entered at a control point [veh/h].
        weather: Channels of `sim_env.weather.years_of_weather` (T).
        vehicles: Counts at the end.
        departed: Vehicles that began on a road, as the roads counted them.
        arrived: Vehicles that ended on a road, as the roads counted them.
        sensor_seed: Of what the sensors make of it.
    """

    scenario: TownScenario
    edges: tuple[Edge, ...]
    volume_ET: Array
    speed_ET_km_per_h: Array
    entered_PT: Array
    weather: dict[str, Array]
    vehicles: VehicleCounts
    departed: int
    arrived: int
    sensor_seed: int

    @property
    def imbalance(self) -> float:
        """Vehicles that the roads saw begin and neither end nor are on the roads, over those that began."""
        lost = self.departed - self.arrived - self.vehicles.present
        unseen = self.departed - self.vehicles.entered
        return (abs(lost) + abs(unseen)) / max(self.departed, 1)

    @property
    def source(self) -> str:
        """`sim:sumo:<scenario>@<hash>`."""
        return scenario_source("sumo", self.scenario.name, self.scenario)

    def edge_rows(self, names: tuple[str, ...]) -> list[int]:
        """Rows of some roads."""
        index = {edge.name: row for row, edge in enumerate(self.edges)}
        return [index[name] for name in names]


def run_town(scenario: TownScenario, *, rng: np.random.Generator) -> TownRun:
    """Simulate a scenario in this process.

    Raises:
        EngineError: The network or a control is not what it must be, or SUMO died.
        StorageError: The temporary folder cannot be written.
    """
    drawn = draw(scenario, rng=rng)
    seed, sensor_seed = (int(value) for value in rng.integers(2**31 - 1, size=2))
    with tempfile.TemporaryDirectory(prefix="towncast-rollout-") as temporary:
        folder = Path(temporary)
        configuration = scenario.configuration or build_town(folder)
        table = folder / "edges.csv"
        engine = SumoEngine(
            configuration,
            scenario.controls,
            mesoscopic=scenario.mesoscopic,
            own_demand=False,
            edge_data=EdgeData(path=table, period_s=float(_HOUR_S)),
        )
        try:
            engine.reset(seed=seed)
            edges = engine.edges
            vehicles = _drive(engine, drawn)
        finally:
            # The edge data are written when the engine is closed.
            engine.close()
        return _hourly(scenario, edges, table, drawn, vehicles, sensor_seed)


def _drive(engine: SumoEngine, drawn: Drawn) -> VehicleCounts:
    names = [edge.name for edge in engine.edges]
    weather_factor, slowed = 1.0, set[str]()
    for quarter, multiplier_P in enumerate(drawn.multiplier_QP):
        factor = float(drawn.speed_factor_Q[quarter])
        if factor != weather_factor:
            engine.set_weather_speed_factor(factor)
            weather_factor = factor
        struck = {
            names[int(incident.edge_index * len(names))]: incident.factor
            for incident in drawn.incidents
            if incident.begins <= quarter < incident.ends
        }
        for name in sorted(slowed - set(struck)):
            engine.release(name)
        for name in sorted(set(struck) - slowed):
            engine.slow(name, struck[name])
        slowed = set(struck)
        state = engine.step(multiplier_P, duration_s=float(QUARTER_S))
    return state.vehicles


def _hourly(
    scenario: TownScenario, edges: tuple[Edge, ...], table: Path, drawn: Drawn, vehicles: VehicleCounts, seed: int
) -> TownRun:
    frame = read_edge_data(table)
    departed, arrived = int(frame["departed"].sum()), int(frame["arrived"].sum())
    # The first hour only filled the roads.
    frame = frame[(frame["begin_s"] >= _HOUR_S) & (frame["begin_s"] < (scenario.hours + 1) * _HOUR_S)]
    shape = (len(edges), scenario.hours)
    by_name = {edge.name: index for index, edge in enumerate(edges)}
    row = frame["edge_id"].map(by_name).to_numpy()
    if np.isnan(row.astype(float)).any():
        raise EngineError(
            "SUMO's edge data name a road that the network lacks", found=str(table), remedy="Run the rollout again."
        )
    hour = (frame["begin_s"].to_numpy() // _HOUR_S - 1).astype(np.int64)
    volume_ET, speed_ET, departed_ET = np.zeros(shape), np.full(shape, np.nan), np.zeros(shape)
    volume_ET[row, hour] = (frame["entered"] + frame["departed"]).to_numpy()
    departed_ET[row, hour] = frame["departed"].to_numpy()
    speed_ET[row, hour] = frame["speed_mps"].to_numpy() * 3.6
    gates = [by_name[control.edge_id] for control in scenario.controls]
    assert len(drawn.multiplier_QP) == (scenario.hours + 1) * QUARTERS
    return TownRun(
        scenario=scenario,
        edges=edges,
        volume_ET=volume_ET,
        speed_ET_km_per_h=speed_ET,
        entered_PT=departed_ET[gates],
        weather=drawn.weather,
        vehicles=vehicles,
        departed=departed,
        arrived=arrived,
        sensor_seed=seed,
    )
