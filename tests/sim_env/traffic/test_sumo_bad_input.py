"""What the SUMO engine refuses, and what becomes of it when SUMO dies."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import sumo

from features.errors import DataError, InvalidParameterError, StorageError
from sim_env.traffic.engine import Control, EngineError
from sim_env.traffic.sumo import EdgeData, SumoEngine, propose_controls, read_edge_data

_CONTROL = Control(control_id="west", edge_id="left0A0", baseline_veh_per_hour=600.0)

Make = Callable[..., SumoEngine]


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = tmp_path_factory.mktemp("town") / "town.net.xml"
    words = "--grid --grid.number 2 --grid.length 100 --grid.attach-length 100 --no-turnarounds"
    program = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
    subprocess.run([program, *words.split(), "-o", net], check=True, capture_output=True)
    return net


@pytest.fixture
def make(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def build(configuration: Path = town, *controls: Control, **choices: object) -> SumoEngine:
        made.append(SumoEngine(configuration, controls or (_CONTROL,), **choices))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for engine in made:
        engine.close()
    assert not list(temporary.iterdir())
    assert not [child for child in psutil.Process().children() if child.name() == "sumo"]


def _configuration(folder: Path, inputs: str, more: str = "") -> Path:
    path = folder / "run.sumocfg"
    path.write_text(f"<configuration><input>{inputs}</input>{more}</configuration>")
    return path


def test_a_configuration_that_is_missing_or_broken_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot be read.*nowhere\.sumocfg.*exists"):
        make(tmp_path / "nowhere.sumocfg").reset(seed=0)
    broken = tmp_path / "broken.sumocfg"
    for content in ("<configuration><input>", "", "no XML at all", "<a/><b/>"):
        broken.write_text(content)
        with pytest.raises(EngineError, match="not well-formed XML"):
            make(broken).reset(seed=0)


def test_a_configuration_without_network_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"names no network.*net-fil.*<net-file value="):
        make(_configuration(tmp_path, '<net-fil value="town.net.xml"/>')).reset(seed=0)


def test_files_that_a_configuration_names_and_that_are_missing_are_named(
    make: Make, town: Path, tmp_path: Path
) -> None:
    inputs = f'<net-file value="{town}"/><route-files value="here.rou.xml, gone.rou.xml"/>'
    (tmp_path / "here.rou.xml").write_text("<routes/>")
    with pytest.raises(EngineError, match=r"route-files: .*gone\.rou\.xml") as refused:
        make(_configuration(tmp_path, inputs)).reset(seed=0)
    assert "here.rou.xml" not in str(refused.value)
    with pytest.raises(EngineError, match=r"net-file: .*gone\.net\.xml"):
        make(_configuration(tmp_path, '<net-file value="gone.net.xml"/>')).reset(seed=0)


@pytest.mark.parametrize("option", ["begin", "end", "step-length"])
def test_a_time_that_cannot_be_read_is_told(make: Make, town: Path, tmp_path: Path, option: str) -> None:
    time = f'<time><{option} value="soon"/></time>'
    with pytest.raises(EngineError, match=f"{option}: 'soon'.*hours:minutes:seconds"):
        make(_configuration(tmp_path, f'<net-file value="{town}"/>', time)).reset(seed=0)


@pytest.mark.parametrize("content", ["<net><edge", "<net/>", '<net version="1.20"><edge id="a"/></net>'])
def test_a_network_that_is_broken_or_empty_is_told(make: Make, tmp_path: Path, content: str) -> None:
    net = tmp_path / "broken.net.xml"
    net.write_text(content)
    with pytest.raises(EngineError, match=r"road network|well-formed"):
        make(net).reset(seed=0)
    with pytest.raises(EngineError, match=r"road network|well-formed"):
        propose_controls(net)


def test_a_control_that_does_not_fit_the_network_is_told(make: Make) -> None:
    wrong = Control(control_id="a", edge_id="left0A1", baseline_veh_per_hour=1.0)
    with pytest.raises(EngineError, match=r"edge_id of control a is not in the network.*'left0A1'.*left0A0"):
        make(make()._path, wrong).reset(seed=0)
    unreachable = Control(control_id="a", edge_id="left0A0", baseline_veh_per_hour=1.0, destinations=("left1A1",))
    with pytest.raises(EngineError, match=r"route of control a does not connect.*'left0A0' to 'left1A1'"):
        make(make()._path, unreachable).reset(seed=0)
    with pytest.raises(EngineError, match="control_id is given twice"):
        make(make()._path, _CONTROL, _CONTROL).reset(seed=0)


def test_an_option_that_sumo_does_not_know_is_told_and_the_library_is_free_again(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    for link in ("libsumo", "traci"):
        with pytest.raises(EngineError, match=r"SUMO cannot run.*colision"):
            make(options=("--colision.action", "warn"), link=link).reset(seed=0)
    assert make().reset(seed=0).sim_time_s == 0.0
    assert capfd.readouterr() == ("", "")


def test_a_broken_additional_file_is_told(make: Make, town: Path, tmp_path: Path) -> None:
    (tmp_path / "more.add.xml").write_text("<additional><busStop")
    inputs = f'<net-file value="{town}"/><additional-files value="more.add.xml"/>'
    with pytest.raises(EngineError, match=r"additional file.*broken.*more\.add\.xml"):
        make(_configuration(tmp_path, inputs)).reset(seed=0)


@pytest.mark.parametrize("multipliers", [[np.nan], [np.inf], [-0.1], [100.5], [1.0, 1.0], [], ["fast"], None])
def test_a_multiplier_that_cannot_be_is_refused_and_the_run_goes_on(make: Make, multipliers: object) -> None:
    engine = make()
    engine.reset(seed=0)
    with pytest.raises(InvalidParameterError, match=r"multiplier"):
        engine.step(multipliers)  # type: ignore[arg-type]
    state = engine.step([1.0])
    assert (state.sim_time_s, state.injected_P.tolist()) == (60.0, [10])


@pytest.mark.parametrize("duration_s", [0.0, -60.0, 0.5, 61.5, 1e9, float("nan"), float("inf")])
def test_a_duration_that_cannot_be_is_refused(make: Make, duration_s: float) -> None:
    engine = make()
    engine.reset(seed=0)
    with pytest.raises(InvalidParameterError, match="control interval"):
        engine.step([1.0], duration_s=duration_s)
    assert engine.step([1.0]).sim_time_s == 60.0


def test_a_seed_that_cannot_be_is_refused(make: Make) -> None:
    for seed in (-1, 2**31):
        with pytest.raises(InvalidParameterError, match="seed"):
            make().reset(seed=seed)


def test_an_incident_that_cannot_be_is_refused_and_the_run_goes_on(make: Make) -> None:
    engine = make()
    with pytest.raises(EngineError, match="not running"):
        engine.slow("A0A1", 0.5)
    engine.reset(seed=0)
    with pytest.raises(EngineError, match=r"no edge of this name.*'A0A2'.*A0A1"):
        engine.slow("A0A2", 0.5)
    for factor in (0.0, -1.0, float("nan"), 3.0):
        with pytest.raises(InvalidParameterError, match="share of the allowed speed"):
            engine.slow("A0A1", factor)
        with pytest.raises(InvalidParameterError, match="share of the allowed speed"):
            engine.set_weather_speed_factor(factor)
    with pytest.raises(InvalidParameterError, match="cannot be closed"):
        engine.close_lanes("A0A1")
    assert engine.step([1.0]).sim_time_s == 60.0


def test_a_file_that_is_no_state_is_refused_and_the_run_goes_on(make: Make, tmp_path: Path) -> None:
    engine = make()
    engine.reset(seed=0)
    engine.step([1.0])
    engine.save(tmp_path / "state")
    (tmp_path / "half").write_bytes((tmp_path / "state").read_bytes()[:500])
    (tmp_path / "text").write_text("no state")
    for name in ("half", "text", "nowhere"):
        with pytest.raises(EngineError, match="not a saved state"):
            engine.restore(tmp_path / name)
    other = Control(control_id="west", edge_id="left0A0", baseline_veh_per_hour=601.0)
    with pytest.raises(EngineError, match="its controls differs"):
        make(make()._path, other).restore(tmp_path / "state")
    with pytest.raises(EngineError, match="its choices differs"):
        make(mesoscopic=True).restore(tmp_path / "state")
    assert engine.step([1.0]).sim_time_s == 120.0


def test_a_state_that_cannot_be_written_is_told_and_the_run_goes_on(make: Make, tmp_path: Path) -> None:
    engine = make()
    with pytest.raises(EngineError, match="not running"):
        engine.save(tmp_path / "state")
    engine.reset(seed=0)
    (tmp_path / "file").write_text("a file where a folder is needed")
    with pytest.raises(StorageError):
        engine.save(tmp_path / "file" / "state")
    assert engine.step([1.0]).sim_time_s == 60.0


def test_a_sumo_process_that_is_killed_is_told_and_the_next_reset_works(make: Make, tmp_path: Path) -> None:
    engine = make(link="traci", edge_data=EdgeData(path=tmp_path / "edges.csv", period_s=60))
    engine.reset(seed=0)
    engine.step([1.0])
    (process,) = [child for child in psutil.Process().children() if child.name() == "sumo"]
    process.kill()
    process.wait()
    with pytest.raises(EngineError, match=r"ended in mid-run, 60 s after.*Reset the engine"):
        engine.step([1.0])
    with pytest.raises(EngineError, match="not running"):
        engine.step([1.0])
    assert not (tmp_path / "edges.csv").exists()
    engine.reset(seed=0)
    assert engine.step([1.0]).sim_time_s == 60.0


@pytest.mark.parametrize("link", ["libsumo", "traci"])
def test_a_demand_that_stops_sumo_in_mid_run_is_told_in_its_words(
    make: Make, town: Path, tmp_path: Path, link: str, capfd: pytest.CaptureFixture[str]
) -> None:
    vehicle = '<vehicle id="lost" depart="400"><route edges="left0A0 B1right1"/></vehicle>'
    (tmp_path / "own.rou.xml").write_text(f"<routes>{vehicle}</routes>")
    inputs = f'<net-file value="{town}"/><route-files value="own.rou.xml"/>'
    more = '<processing><ignore-route-errors value="false"/></processing>'
    engine = make(_configuration(tmp_path, inputs, more), link=link)
    engine.reset(seed=0)
    engine.step([1.0])
    with pytest.raises(EngineError, match=r"ended in mid-run.*[Nn]o connection between edge 'left0A0'"):
        engine.step([1.0], duration_s=600)
    engine.reset(seed=0)
    assert engine.step([1.0]).sim_time_s == 60.0
    assert capfd.readouterr() == ("", "")


def test_edge_data_that_are_missing_or_something_else_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not edge data"):
        read_edge_data(tmp_path / "nowhere.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not edge data"):
        read_edge_data(tmp_path / "other.csv")
    with pytest.raises(InvalidParameterError, match="period"):
        EdgeData(path=tmp_path / "edges.csv", period_s=0)
