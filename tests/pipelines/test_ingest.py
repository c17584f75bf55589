"""From files and rollouts into the store, by function and by command."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from features.domains import DOMAINS
from features.domains.traffic import TRAFFIC
from features.errors import DataError, TowncastError, UnknownNameError
from features.sources.tabular import TabularMapping, make_mapping, parse_map, read_tabular
from features.store import ReadingStore
from pipelines.commands.ingest import ingest
from pipelines.ingest import (
    check_parsed,
    ingest_files,
    ingest_published,
    ingest_rollout,
    render_preview,
    render_summary,
)
from sim_env import SIMULATORS
from sim_env.traffic.scenario import RoadsScenario

COUNTS = "t,v,k\n2020-01-01 00:00,10,280\n2020-01-01 01:00,many,281\n2020-01-01 02:00,,0\nlater,3,280\n"
MAPS = ["--map", "volume=v:veh/h", "--map", "temperature=k:K"]
OPTIONS = ["--site", "R7", "--timestamp", "t", "--tz", "US/Central", *MAPS]


def road_mapping(**changes: object) -> TabularMapping:
    quantities = (parse_map("volume=v:veh/h", TRAFFIC), parse_map("temperature=k:K", TRAFFIC))
    return make_mapping(
        TRAFFIC, quantities=quantities, **{"timestamp": "t", "site": "R7", "tz": "US/Central", **changes}
    )


def write(folder: Path, text: str = COUNTS, name: str = "counts.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def shown(renderable: object) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def app() -> typer.Typer:
    application = typer.Typer()
    application.command()(ingest)
    return application


def test_each_cell_is_stored_quarantined_or_missing(tmp_path: Path) -> None:
    summary = ingest_files([write(tmp_path)], road_mapping(), TRAFFIC, root=tmp_path / "store")
    assert (summary.rows, summary.stored, summary.known, summary.quarantined) == (4, 3, 0, 4)
    assert summary.reasons == {
        "unreadable time stamp": 2,
        "not a number": 1,
        "outside -90 to 60 degC (temperature)": 1,
    }
    assert [(entry.name, entry.accepted, entry.missing) for entry in summary.quantities] == [
        ("volume", 1, 1),
        ("temperature", 2, 0),
    ]
    assert (str(summary.first), summary.sites) == ("2020-01-01 06:00:00+00:00", ("R7",))
    store = ReadingStore(tmp_path / "store", TRAFFIC)
    assert len(store.readings()) == 3
    assert sorted(store.quarantine()["raw"]) == ["", "later", "later", "many"]


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    path, root = write(tmp_path), tmp_path / "store"
    ingest_files([path], road_mapping(), TRAFFIC, root=root)
    before = sorted(file.name for file in root.rglob("*"))
    again = ingest_files([path], road_mapping(), TRAFFIC, root=root)
    assert (again.stored, again.known) == (0, 3)
    assert sorted(file.name for file in root.rglob("*")) == before


def test_a_contradiction_joins_a_quarantine_that_was_empty(tmp_path: Path) -> None:
    good = "t,v,k\n2020-01-01 00:00,10,280\n"
    ingest_files([write(tmp_path, good)], road_mapping(), TRAFFIC, root=tmp_path / "store")
    path = write(tmp_path, good.replace("10", "11"))
    summary = ingest_files([path], road_mapping(), TRAFFIC, root=tmp_path / "store")
    assert summary.reasons == {"contradicts a stored reading": 1}
    assert len(ReadingStore(tmp_path / "store", TRAFFIC).quarantine()) == 1


def test_quarantined_rows_that_differ_in_their_text_alone_are_all_kept(tmp_path: Path) -> None:
    for text in ("soon", "later"):
        path = write(tmp_path, f"t,v,k\n2020-01-01 00:00,10,280\n{text},3,\n")
        ingest_files([path], road_mapping(), TRAFFIC, root=tmp_path / "store")
    assert sorted(ReadingStore(tmp_path / "store", TRAFFIC).quarantine()["raw"]) == ["later", "soon"]


def test_later_files_do_not_wipe_out_what_is_known_of_a_site(tmp_path: Path) -> None:
    path, root = write(tmp_path), tmp_path / "store"
    ingest_files([path], road_mapping(latitude=45.0, attributes={"lanes": 3.0}), TRAFFIC, root=root)
    ingest_files([path], road_mapping(country="US"), TRAFFIC, root=root)
    site = ReadingStore(root, TRAFFIC).site("R7")
    assert (site.latitude, site.country, site.attributes, site.timezone) == (45.0, "US", {"lanes": 3.0}, "US/Central")


def test_a_published_file_is_recognised(tmp_path: Path) -> None:
    header = "holiday,temp,rain_1h,snow_1h,clouds_all,weather_main,weather_description,date_time,traffic_volume\n"
    row = "None,280.15,0.0,0.0,40,Clouds,scattered clouds,2016-01-04 08:00:00,100\n"
    write(tmp_path, header + row + row, "Metro_Interstate_Traffic_Volume.csv")
    summary = ingest_published(tmp_path, TRAFFIC, root=tmp_path / "store")
    assert (summary.stored, summary.reasons) == (5, {"repeated row": 5})
    with pytest.raises(DataError, match="Recognised are"):
        ingest_published(tmp_path, DOMAINS["water"], root=tmp_path / "store")


def test_a_rollout_takes_the_same_way(tmp_path: Path) -> None:
    scenario = RoadsScenario(weeks=1)
    summary = ingest_rollout(SIMULATORS["roads"], scenario, rng=np.random.default_rng(0), root=tmp_path)
    assert summary.quarantined == 0
    assert summary.stored == summary.rows == len(ReadingStore(tmp_path, TRAFFIC).readings())
    assert ReadingStore(tmp_path, TRAFFIC).site("R001").attributes == {"lanes": 3.0}


def test_preview_and_summary_say_what_happened(tmp_path: Path) -> None:
    parsed = read_tabular([write(tmp_path)], road_mapping(available_after="15min"), TRAFFIC)
    preview = shown(render_preview(parsed, check_parsed(parsed, TRAFFIC), TRAFFIC))
    for expected in ("2020-01-01 06:00", "Wed 00:00", "10 veh/h", "6.85 degC", "15 min", "unreadable", "'later'"):
        assert expected in preview
    summary = shown(render_summary(ingest_files([write(tmp_path)], road_mapping(), TRAFFIC, root=tmp_path / "store")))
    for expected in ("4 rows read", "K -> degC", "already known", "not a number", "Note: Nothing says"):
        assert expected in summary


def test_nothing_readable_is_still_told(tmp_path: Path) -> None:
    text = "t,v,k\n2020-01-01 00:00,,\n,3,\n"
    parsed = read_tabular([write(tmp_path, text)], road_mapping(), TRAFFIC)
    assert "empty time stamp" in shown(render_preview(parsed, check_parsed(parsed, TRAFFIC), TRAFFIC))
    summary = ingest_files([write(tmp_path, text)], road_mapping(), TRAFFIC, root=tmp_path / "store")
    assert (summary.first, summary.stored, summary.quarantined) == (None, 0, 1)
    assert "no moment" in shown(render_summary(summary))


def test_the_command_stores_and_a_preview_does_not(
    tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))
    arguments = ["traffic", str(write(tmp_path)), *OPTIONS, "--attribute", "lanes=3"]
    previewed = CliRunner().invoke(app, [*arguments, "--preview"], catch_exceptions=False)
    assert previewed.exit_code == 0
    assert "nothing is stored" in previewed.output
    assert not (tmp_path / "var").exists()
    stored = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert stored.exit_code == 0
    assert "4 rows read" in stored.output
    store = ReadingStore(tmp_path / "var" / "readings", TRAFFIC)
    assert len(store.readings()) == 3
    assert store.site("R7").attributes == {"lanes": 3.0}


def test_a_mapping_file_beside_the_data_is_enough(
    tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))
    write(tmp_path, 'timestamp = "t"\ntz = "Europe/Rome"\nsite = "Z1"\n[quantities]\ninflow = "q:m3/h"\n', "water.toml")
    path = write(tmp_path, "t,q\n2021-01-01 00:00,36\n", "water.csv")
    result = CliRunner().invoke(app, ["water", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert ReadingStore(tmp_path / "var" / "readings", DOMAINS["water"]).readings()["value"].tolist() == pytest.approx(
        [10.0]
    )


@pytest.mark.parametrize("name", list(DOMAINS))
def test_the_command_serves_every_domain(
    tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))
    domain = DOMAINS[name]
    frame = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC"), "x": [1.0, 2.0, 3.0]})
    frame.to_parquet(tmp_path / "own.parquet")
    arguments = [
        name,
        str(tmp_path / "own.parquet"),
        "--timestamp",
        "t",
        "--site",
        "S",
        "--map",
        f"{domain.target.name}=x",
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(ReadingStore(tmp_path / "var" / "readings", domain).readings()) == 3


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["trafic", "counts.csv"], "Did you mean: traffic"),
        (["traffic", "counts.csv"], "--timestamp"),
        (["traffic", "counts.csv", *OPTIONS, "--attribute", "lanes"], "NAME=NUMBER"),
        (["traffic", "nowhere.csv", *OPTIONS], "cannot be opened"),
        (["traffic", "."], "Recognised are"),
    ],
)
def test_the_command_raises_errors_with_a_remedy(
    tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch, arguments: list[str], fact: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    with pytest.raises(TowncastError, match=fact) as raised:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert raised.value.remedy or isinstance(raised.value, UnknownNameError)


def test_help_loads_nothing_heavy() -> None:
    program = "import sys, pipelines.commands.ingest; sys.exit('pandas' in sys.modules or 'pint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
