"""The SUMO engine: what it injects, reads, saves and leaves behind."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import sumo

from features.errors import InvalidParameterError
from sim_env.engine_check import check_engine
from sim_env.traffic.engine import TRAFFIC_ENGINES, Control, EngineError, TrafficState
from sim_env.traffic.sumo import EdgeData, SumoEngine, network_edges, propose_controls, read_edge_data

_CONTROLS = (
    Control(control_id="west", edge_id="left1A1", baseline_veh_per_hour=600.0, destinations=("B1right1", "B0bottom1")),
    Control(control_id="north", edge_id="top0A1", baseline_veh_per_hour=90.0),
)

Make = Callable[..., SumoEngine]


def _netgenerate(net: Path, more: str) -> Path:
    words = f"--grid --grid.number 2 --grid.length 150 --grid.attach-length 150 {more}".split()
    program = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
    signals = ["--default-junction-type", "traffic_light"]
    subprocess.run([program, *words, *signals, "-o", net], check=True, capture_output=True)
    return net


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crossings with signals, two lanes a street, and eight ways in and out."""
    return _netgenerate(tmp_path_factory.mktemp("town") / "town.net.xml", "--default.lanenumber 2")


@pytest.fixture
def make(town: Path) -> Iterator[Make]:
    made = []

    def build(configuration: Path = town, controls: tuple[Control, ...] = _CONTROLS, **choices: object) -> SumoEngine:
        made.append(SumoEngine(configuration, controls, **choices))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for engine in made:
        engine.close()


def _scenario(folder: Path, town: Path, *, begin: int = 0) -> Path:
    """A configuration with demand of its own, and outputs that it would write beside itself."""
    folder.mkdir(exist_ok=True)
    cars = "".join(
        f'<vehicle id="own{number}" depart="{begin + 2 * number}"><route edges="bottom0A0 A0A1 A1top0"/></vehicle>'
        for number in range(100)
    )
    (folder / "own.rou.xml").write_text(f"<routes>{cars}</routes>")
    detector = '<inductionLoop id="loop" lane="A0A1_0" pos="20" period="60" file="loop.xml"/>'
    (folder / "more.add.xml").write_text(f"<additional>{detector}</additional>")
    path = folder / "run.sumocfg"
    path.write_text(
        f"""<configuration><input><net-file value="{town}"/><route-files value="own.rou.xml"/>
        <additional-files value="more.add.xml"/></input><time><begin value="{begin}"/><end value="{begin + 60}"/></time>
        <output><tripinfo-output value="trips.xml"/><summary value="summary.xml"/></output>
        <report><log value="log.txt"/></report></configuration>"""
    )
    return path


def _equal(one: TrafficState, other: TrafficState) -> bool:
    arrays = ("veh_count_E", "mean_speed_E_mps", "injected_P")
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    return same and one.vehicles == other.vehicles and one.sim_time_s == other.sim_time_s


@pytest.mark.parametrize(("link", "mesoscopic"), [("libsumo", False), ("libsumo", True), ("traci", False)])
def test_the_engine_keeps_its_promises(make: Make, link: str, mesoscopic: bool) -> None:
    check_engine(make(link=link, mesoscopic=mesoscopic), seed=3)


def test_a_configuration_with_its_own_demand_keeps_the_promises_too(make: Make, town: Path, tmp_path: Path) -> None:
    check_engine(make(_scenario(tmp_path, town)), duration_s=30.0)


def test_the_engine_is_found_by_name() -> None:
    assert TRAFFIC_ENGINES["sumo"] is SumoEngine


def test_library_and_process_give_the_same_states(make: Make) -> None:
    runs = []
    for link in ("libsumo", "traci"):
        engine = make(link=link)
        runs.append([engine.reset(seed=5), *(engine.step([2.0, 3.0]) for _ in range(4))])
        engine.close()
    assert all(_equal(one, other) for one, other in zip(*runs, strict=True))
    assert runs[0][-1].vehicles.entered > 50


_ELSEWHERE = """
import json, sys
from pathlib import Path
from sim_env.traffic.engine import Control
from sim_env.traffic.sumo import SumoEngine
controls = tuple(Control(**row) for row in json.loads(sys.argv[2]))
engine = SumoEngine(Path(sys.argv[1]), controls)
engine.reset(seed=5)
for _ in range(3):
    state = engine.step([2.0, 3.0])
engine.close()
print(state.veh_count_E.tolist(), state.mean_speed_E_mps.tolist(), state.vehicles)
"""


def test_another_process_gives_the_same_states_and_sumo_says_nothing_on_the_terminal(make: Make, town: Path) -> None:
    engine = make()
    engine.reset(seed=5)
    for _ in range(3):
        state = engine.step([2.0, 3.0])
    rows = [
        {name: getattr(control, name) for name in ("control_id", "edge_id", "baseline_veh_per_hour", "destinations")}
        for control in _CONTROLS
    ]
    words = [sys.executable, "-c", _ELSEWHERE, str(town), json.dumps(rows)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{state.veh_count_E.tolist()} {state.mean_speed_E_mps.tolist()} {state.vehicles}"
    assert done.stderr == ""


def test_inflow_is_baseline_times_multiplier_and_fractions_are_carried(make: Make) -> None:
    engine = make()
    engine.reset(seed=0)
    injected = np.array([engine.step([1.0, 1.0]).injected_P for _ in range(8)])
    assert (injected[:, 0] == 10).all()
    assert set(injected[:, 1]) == {1, 2}
    assert injected[:, 1].sum() == 12
    assert not engine.step([0.0, 0.0]).injected_P.any()
    assert engine.step([3.0, 0.0]).injected_P.tolist() == [30, 0]


def test_departures_spread_over_the_interval(make: Make, tmp_path: Path) -> None:
    engine = make(edge_data=EdgeData(path=tmp_path / "edges.csv", period_s=60))
    engine.reset(seed=0)
    engine.step([1.0, 0.0], duration_s=600)
    engine.close()
    departed = read_edge_data(tmp_path / "edges.csv").groupby("begin_s")["departed"].sum()
    assert departed.sum() >= 98
    assert departed.between(4, 18).all()


def test_vehicles_end_where_their_control_says(make: Make, tmp_path: Path) -> None:
    engine = make(edge_data=EdgeData(path=tmp_path / "edges.csv", period_s=600))
    engine.reset(seed=1)
    engine.step([1.0, 0.0], duration_s=300)
    state = engine.step([0.0, 0.0], duration_s=300)
    engine.close()
    rows = read_edge_data(tmp_path / "edges.csv").set_index("edge_id")
    assert set(rows.index[rows["arrived"] > 0]) == {"B1right1", "B0bottom1"}
    assert set(rows.index[rows["departed"] > 0]) == {"left1A1"}
    assert state.vehicles.present == 0


def test_a_second_engine_in_this_process_is_refused_and_close_makes_room(make: Make) -> None:
    first, second = make(), make()
    first.reset(seed=0)
    before = first.step([1.0, 1.0])
    refusals = []

    def try_second() -> None:
        try:
            second.reset(seed=0)
        except EngineError as error:
            refusals.append(error.remedy)

    try_second()
    other = threading.Thread(target=try_second)
    other.start()
    other.join()
    assert ["Close the other engine" in remedy for remedy in refusals] == [True, True]
    assert first.step([1.0, 1.0]).vehicles.entered > before.vehicles.entered
    beside = make(link="traci")
    assert beside.reset(seed=0).sim_time_s == 0.0
    first.close()
    assert second.reset(seed=0).sim_time_s == 0.0


def test_a_simulation_that_others_started_in_this_process_is_not_wiped(make: Make, town: Path) -> None:
    engine = make()
    engine.reset(seed=0)
    engine.close()
    import libsumo

    libsumo.start(["sumo", "--net-file", str(town), "--no-step-log", "true", "--duration-log.disable", "true"])
    try:
        libsumo.simulationStep(10.0)
        with pytest.raises(EngineError, match="runs a SUMO engine already"):
            engine.reset(seed=0)
        assert libsumo.simulation.getTime() == 10.0
    finally:
        libsumo.close()
    assert engine.reset(seed=0).sim_time_s == 0.0


def test_a_reset_begins_anew_whatever_was_before(make: Make) -> None:
    engine = make()
    engine.reset(seed=1)
    first = engine.step([2.0, 2.0])
    engine.slow("A1B1", 0.1)
    engine.set_weather_speed_factor(0.5)
    engine.step([4.0, 4.0], duration_s=300)
    assert engine.reset(seed=1).vehicles.entered == 0
    assert _equal(engine.step([2.0, 2.0]), first)
    engine.reset(seed=2)
    assert not _equal(engine.step([2.0, 2.0]), first)


@pytest.mark.parametrize("mesoscopic", [False, True])
def test_a_restored_run_is_the_run_that_went_on(make: Make, town: Path, tmp_path: Path, mesoscopic: bool) -> None:
    scenario = _scenario(tmp_path / "scenario", town, begin=1000)
    engine = make(scenario, mesoscopic=mesoscopic)
    engine.reset(seed=4)
    engine.slow("A1B1", 0.2)
    engine.set_weather_speed_factor(0.8)
    engine.step([2.0, 5.0], duration_s=120)
    engine.slow("A0A1", 0.5)
    saved = engine.step([3.0, 5.0])
    engine.save(tmp_path / "state")

    def go_on(running: SumoEngine) -> list[TrafficState]:
        states = [running.step([2.5, 4.0])]
        running.release("A1B1")
        return [*states, *(running.step([1.0, 4.0]) for _ in range(3))]

    went_on = go_on(engine)
    engine.restore(tmp_path / "state")
    assert all(_equal(one, other) for one, other in zip(went_on, go_on(engine), strict=True))
    engine.close()
    other = make(scenario, mesoscopic=mesoscopic, link="traci")
    restored = other.restore(tmp_path / "state")
    assert np.array_equal(restored.veh_count_E, saved.veh_count_E)
    assert all(_equal(one, other) for one, other in zip(went_on, go_on(other), strict=True))


def test_a_quick_restore_puts_every_vehicle_back(make: Make, tmp_path: Path) -> None:
    engine = make()
    engine.reset(seed=4)
    engine.slow("A1B1", 0.2)
    saved = engine.step([4.0, 5.0], duration_s=300)
    engine.save(tmp_path / "state")
    engine.step([9.0, 9.0], duration_s=300)
    restored = engine.restore(tmp_path / "state", quick=True)
    assert np.array_equal(restored.veh_count_E, saved.veh_count_E)
    np.testing.assert_allclose(restored.mean_speed_E_mps, saved.mean_speed_E_mps)
    assert (restored.sim_time_s, restored.vehicles.entered) == (300.0, saved.vehicles.entered)
    # From here on it is a run like any other, with an exact restore of its own.
    engine.step([2.0, 2.0])
    engine.save(tmp_path / "later")
    went_on = engine.step([2.0, 2.0])
    engine.restore(tmp_path / "later")
    assert _equal(engine.step([2.0, 2.0]), went_on)


def test_edge_data_count_every_vehicle_on_every_edge(make: Make, town: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / "edges.csv"
    engine = make(_scenario(tmp_path / "scenario", town, begin=7200), edge_data=EdgeData(path=path, period_s=120))
    engine.reset(seed=0)
    for _ in range(6):
        state = engine.step([1.0, 1.0])
    assert not path.exists()
    engine.close()
    frame = read_edge_data(path)
    assert frame["begin_s"].unique().tolist() == [0.0, 120.0, 240.0]
    assert frame.groupby("begin_s").size().tolist() == [len(engine.edges)] * 3
    assert set(frame["edge_id"]) == {edge.name for edge in engine.edges}
    assert frame["departed"].sum() == state.vehicles.entered > 0
    assert frame["arrived"].sum() == state.vehicles.left > 0
    empty = frame[frame["sampled_s"] == 0]
    assert len(empty) > 0
    assert not empty[["entered", "left", "departed", "arrived"]].to_numpy().any()
    assert empty["speed_mps"].isna().all()
    assert frame["speed_mps"].max() < 20


def test_options_in_sumos_own_words_come_before_the_engines(make: Make) -> None:
    teleported = make(options=("--time-to-teleport", "5"), time_to_teleport_s=600)
    usual = make(time_to_teleport_s=600)
    counts = []
    for engine in (teleported, usual):
        engine.reset(seed=0)
        counts.append(engine.step([5.0, 20.0], duration_s=600).vehicles)
        engine.close()
    assert counts[0] != counts[1]


def test_incidents_and_weather_slow_the_traffic_and_can_be_taken_back(make: Make) -> None:
    engine = make()
    street = [edge.name for edge in engine.edges].index("A1B1")

    def mean_speed(change: Callable[[], None]) -> float:
        engine.reset(seed=2)
        engine.step([1.0, 0.0], duration_s=60)
        change()
        return float(np.mean([engine.step([1.0, 0.0], duration_s=10).mean_speed_E_mps[street] for _ in range(24)]))

    def take_back() -> None:
        engine.slow("A1B1", 0.2)
        engine.set_weather_speed_factor(0.5)
        engine.release("A1B1")
        engine.set_weather_speed_factor(1.0)

    usual = mean_speed(lambda: None)
    assert mean_speed(lambda: engine.slow("A1B1", 0.2)) < 0.5 * usual
    assert mean_speed(lambda: engine.set_weather_speed_factor(0.5)) < 0.8 * usual
    assert mean_speed(take_back) == usual


def test_closed_lanes_hold_traffic_back_and_cut_nobody_off(make: Make, tmp_path: Path) -> None:
    net = _netgenerate(tmp_path / "wide.net.xml", "--default.lanenumber 3")
    west = Control(control_id="west", edge_id="left1A1", baseline_veh_per_hour=3000.0)
    engine = make(net, (west,))
    street = [edge.name for edge in engine.edges].index("left1A1")

    def entered(change: Callable[[], None]) -> tuple[int, int]:
        engine.reset(seed=2)
        change()
        state = engine.step([1.0], duration_s=600)
        return state.vehicles.entered, int(state.veh_count_E[street])

    def close_and_open() -> None:
        engine.close_lanes("left1A1")
        engine.release("left1A1")

    usual = entered(lambda: None)
    assert entered(lambda: engine.close_lanes("left1A1"))[0] < 0.9 * usual[0]
    assert entered(close_and_open) == usual
    with pytest.raises(InvalidParameterError, match="a turn would be cut off"):
        engine.close_lanes("left1A1", 2)


def test_an_empty_edge_shows_the_speed_that_is_allowed_now(make: Make) -> None:
    engine = make()
    limits = np.array([edge.speed_limit_mps for edge in engine.edges])
    np.testing.assert_array_equal(engine.reset(seed=0).mean_speed_E_mps, limits)
    engine.set_weather_speed_factor(0.5)
    engine.slow("A1B1", 0.5)
    speeds = engine.step([0.0, 0.0]).mean_speed_E_mps
    expected = limits * np.where([edge.name == "A1B1" for edge in engine.edges], 0.25, 0.5)
    np.testing.assert_allclose(speeds, expected)


def test_time_counts_from_the_configurations_beginning_and_runs_past_its_end(
    make: Make, town: Path, tmp_path: Path
) -> None:
    engine = make(_scenario(tmp_path, town, begin=3600))
    assert engine.reset(seed=0).sim_time_s == 0.0
    state = engine.step([0.0, 0.0], duration_s=300)
    assert (state.sim_time_s, state.vehicles.entered) == (300.0, 100)
    engine.close()
    alone = make(_scenario(tmp_path, town, begin=3600), own_demand=False)
    alone.reset(seed=0)
    assert alone.step([1.0, 0.0], duration_s=300).injected_P.tolist() == [50, 0]
    assert alone.step([0.0, 0.0]).vehicles.entered == 50


@pytest.mark.parametrize("link", ["libsumo", "traci"])
def test_nothing_is_left_behind(
    make: Make, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    scenario = _scenario(tmp_path / "scenario", town)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    files = {path: path.stat().st_mtime_ns for path in scenario.parent.iterdir()}
    engine = make(scenario, link=link)
    assert not list((tmp_path / "temporary").iterdir()), "the constructor did work"
    engine.reset(seed=0)
    engine.step([1.0, 1.0])
    children = psutil.Process().children()
    assert [child.name() for child in children if "sumo" in child.name()] == (["sumo"] if link == "traci" else [])
    engine.save(tmp_path / "state")
    engine.restore(tmp_path / "state")
    engine.close()
    engine.close()
    assert not [child for child in psutil.Process().children() if "sumo" in child.name()]
    assert not list((tmp_path / "temporary").iterdir())
    assert {path: path.stat().st_mtime_ns for path in scenario.parent.iterdir()} == files


def test_proposals_follow_the_configurations_own_demand(town: Path, tmp_path: Path) -> None:
    (control,) = propose_controls(_scenario(tmp_path, town))
    assert (control.edge_id, control.destinations) == ("bottom0A0", ("A1top0",))
    # The configuration ends after a minute, the shortest demand that is judged takes ten.
    assert control.baseline_veh_per_hour == pytest.approx(31 * 6)


def test_proposals_without_demand_are_the_ways_into_town(town: Path, make: Make) -> None:
    proposed = propose_controls(town)
    ways_in = {edge.name for edge in network_edges(town) if edge.name.startswith(("left", "right", "top", "bottom"))}
    assert {control.edge_id for control in proposed} == ways_in
    assert all(control.destinations and control.baseline_veh_per_hour > 0 for control in proposed)
    assert len(propose_controls(town, most=3)) == 3
    engine = make(controls=proposed)
    engine.reset(seed=0)
    assert engine.step(np.ones(len(proposed))).vehicles.entered > 0


def test_a_network_without_ways_in_gets_controls_at_its_rim(tmp_path: Path, make: Make) -> None:
    net = tmp_path / "ring.net.xml"
    program = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
    subprocess.run([program, "--grid", "--grid.number", "3", "-o", net], check=True, capture_output=True)
    proposed = propose_controls(net)
    assert len(proposed) >= 1
    engine = make(net, proposed)
    engine.reset(seed=0)
    state = engine.step(np.ones(len(proposed)), duration_s=300)
    assert state.vehicles.entered > 0
