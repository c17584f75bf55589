"""`towncast controls`: a proposal that a user can read, check and mend."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sumo

_TOWNCAST = Path(sys.executable).parent / "towncast"


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = tmp_path_factory.mktemp("town") / "town.net.xml"
    words = "--grid --grid.number 2 --grid.length 100 --grid.attach-length 100"
    program = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
    subprocess.run([program, *words.split(), "-o", net], check=True, capture_output=True)
    return net


def _run(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_TOWNCAST, "controls", *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_proposal_is_shown_written_and_found_to_fit(tmp_path: Path, town: Path) -> None:
    made = _run(tmp_path, "make", town, "--out", "mine.json", "--most", "3")
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    rows = json.loads((tmp_path / "mine.json").read_text())["controls"]
    assert len(rows) == 3
    assert set(rows[0]) == {"control_id", "edge_id", "baseline_veh_per_hour", "destinations"}
    assert all(row["control_id"] in made.stdout for row in rows)
    assert "own demand" not in made.stdout
    checked = _run(tmp_path, "check", "mine.json", town)
    assert checked.returncode == 0, checked.stderr
    assert "3 control points fit" in checked.stdout


def test_a_demand_that_the_proposal_would_double_is_told(tmp_path: Path, town: Path) -> None:
    flow = '<flow id="f" from="left0A0" to="B1right1" begin="0" end="3600" vehsPerHour="200"/>'
    (tmp_path / "own.rou.xml").write_text(f"<routes>{flow}</routes>")
    inputs = f'<net-file value="{town}"/><route-files value="own.rou.xml"/>'
    (tmp_path / "run.sumocfg").write_text(f"<configuration><input>{inputs}</input></configuration>")
    made = _run(tmp_path, "make", "run.sumocfg")
    assert made.returncode == 0, made.stderr
    assert "100% of the configuration's own demand (200 veh/h)" in made.stdout
    (row,) = json.loads((tmp_path / "controls.json").read_text())["controls"]
    assert (row["edge_id"], row["baseline_veh_per_hour"], row["destinations"]) == ("left0A0", 200.0, ["B1right1"])


def test_what_does_not_fit_is_one_clear_error(tmp_path: Path, town: Path) -> None:
    row = {"control_id": "ramp", "edge_id": "left0A1", "baseline_veh_per_hour": 5.0}
    (tmp_path / "controls.json").write_text(json.dumps({"controls": [row]}))
    wrong = _run(tmp_path, "check", "controls.json", town)
    assert wrong.returncode == 2
    assert "'left0A1'" in wrong.stderr
    assert "Did you mean: left" in wrong.stderr
    missing = _run(tmp_path, "make", "nowhere.sumocfg")
    assert missing.returncode == 2
    assert "nowhere.sumocfg" in missing.stderr
    assert "Traceback" not in wrong.stderr + missing.stderr
