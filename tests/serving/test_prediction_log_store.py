"""The prediction log in SQLite and in PostgreSQL: entered at once, read in order, forgotten in time."""

import logging
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
import sqlalchemy as sql

from benchmarks.local_postgres import new_database, postgres_is_there, postgres_server
from features.errors import StorageError
from serving.app import create_app
from serving.environment import read_environment
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record, from_lines, to_lines
from serving.prediction_log.retention import Retention
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore
from serving.prediction_log.tables import ANSWERS, FORECASTS

DAY_S = 86_400.0


def forecast(number: int, **changes: Any) -> ForecastRecord:
    made = ForecastRecord(
        name=f"f{number:015d}",
        made_s=1000.0 + number,
        domain="traffic",
        target="volume",
        unit="veh/h",
        site=f"R{number % 3}",
        origin_s=3600 * (number // 3),
        step_s=3600,
        window=f"abc{number}@3600",
        model_version="traffic-lstm-v1",
        role="champion",
        runtime="in_process",
        levels=(0.025, 0.5, 0.975),
        values=np.arange(6, dtype="<f4").tobytes(),
    )
    return msgspec.structs.replace(made, **changes)


def given(number: int, **changes: Any) -> AnswerRecord:
    answer = AnswerRecord(
        request_id=f"r{number}",
        answered_s=2000.0 + number,
        caller="loop\tback\\",
        forecast=f"f{number:015d}",
        steps=2,
        latency_ms=0.25,
        came="kept",
        lowered_by=("stale",),
    )
    return msgspec.structs.replace(answer, **changes)


def lines(*records: Record) -> Iterator[tuple[int, Record]]:
    return iter(enumerate(records))


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    if not postgres_is_there():
        pytest.skip("PostgreSQL is not installed")
    with postgres_server(sync=False) as port:
        yield port


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return new_database(request.getfixturevalue("postgres"), "log")


@pytest.fixture
def store(url: str) -> Iterator[PredictionStore]:
    with closing(PredictionStore(url)) as opened:
        yield opened


def names(store: PredictionStore, **selection: Any) -> list[str]:
    return [name for batch in store.batches("traffic", "volume", **selection) for name in batch.name_N]


def numbers(store: PredictionStore, **selection: Any) -> list[int]:
    return [int(name[1:]) for name in names(store, **selection)]


def test_forecasts_are_counted_by_the_hour_in_which_they_were_made(store: PredictionStore) -> None:
    # Rounding to the nearest hour would say 1 and 3.
    moments = [0.0, 3599.9, 3600.0, 2.9 * 3600]
    records = [forecast(number, made_s=made_s) for number, made_s in enumerate(moments)]
    store.add("segment", lines(*records, forecast(9, target="speed")))
    assert store.made_by_hour("traffic", "volume") == {0: 2, 1: 1, 2: 1}
    assert store.made_by_hour("traffic", "volume", since_s=3600.0) == {1: 1, 2: 1}
    assert store.made_by_hour("traffic", "other") == {}


def test_what_is_entered_twice_in_any_order_is_there_once(store: PredictionStore) -> None:
    records = [forecast(1), given(1), forecast(2), given(2)]
    assert store.add("segment", lines(*records)) == 4
    store.add("segment", lines(*records))
    # Another worker made the same forecast a moment later.
    store.add("other", lines(forecast(1, made_s=5000.0), given(3, forecast="f000000000000001")))
    assert store.count() == {"forecasts": 2, "answers": 3}
    assert store.answers("r1") == [(given(1), forecast(1))]
    assert store.answers("r3")[0][1] == forecast(1)


def test_many_workers_open_the_log_at_the_same_moment(url: str) -> None:
    together = Barrier(6)

    def work(number: int) -> int:
        with closing(PredictionStore(url)) as store:
            together.wait()
            return store.add(f"segment-{number}", lines(forecast(1), given(number)))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [2] * 6
    with closing(PredictionStore(url)) as store:
        assert store.count() == {"forecasts": 1, "answers": 6}


def test_the_fields_of_records_have_the_order_of_the_columns() -> None:
    assert ForecastRecord.__struct_fields__ == tuple(FORECASTS.columns.keys())
    assert ("segment", "line", *AnswerRecord.__struct_fields__) == tuple(ANSWERS.columns.keys())


def test_a_line_that_is_none_costs_no_other(store: PredictionStore) -> None:
    first, second = to_lines([forecast(1), given(1)]), to_lines([forecast(2), given(2)])
    store.add("segment", from_lines(first + first[:40] + b"\n" + second))
    assert store.count() == {"forecasts": 2, "answers": 2}


def test_nothing_of_a_segment_is_entered_where_a_part_cannot_be(store: PredictionStore) -> None:
    broken = given(2, latency_ms=None)
    with pytest.raises(StorageError):
        store.add("segment", lines(forecast(1), given(1), broken))
    assert store.count() == {"forecasts": 0, "answers": 0}
    store.add("segment", lines(forecast(1), given(1)))
    assert store.count() == {"forecasts": 1, "answers": 1}


def test_batches_hold_what_was_logged_in_the_order_in_which_it_was_made(store: PredictionStore) -> None:
    order = np.random.default_rng(0).permutation(20).tolist()
    values = {number: np.random.default_rng(number).normal(size=(2, 3)).astype("<f4") for number in range(20)}
    store.add("a", lines(*(forecast(number, values=values[number].tobytes()) for number in order)))
    store.add("b", lines(forecast(20, domain="water"), forecast(21, target="speed")))
    (batch,) = store.batches("traffic", "volume")
    assert len(batch) == 20
    assert [int(name[1:]) for name in batch.name_N] == list(range(20))
    np.testing.assert_array_equal(batch.value_NHQ, np.stack([values[number] for number in range(20)]))
    assert batch.value_NHQ.dtype == np.float32
    np.testing.assert_array_equal(batch.made_s_N, 1000.0 + np.arange(20))
    np.testing.assert_array_equal(batch.origin_s_N, 3600 * (np.arange(20) // 3))
    assert batch.origin_s_N.dtype == np.int64
    assert batch.site_N.tolist() == [f"R{number % 3}" for number in range(20)]
    assert set(batch.model_version_N) == {"traffic-lstm-v1"}
    assert set(batch.role_N) == {"champion"}
    assert (batch.step_s, batch.unit, batch.levels) == (3600, "veh/h", (0.025, 0.5, 0.975))


@pytest.mark.parametrize("limit_rows", [1, 4, 10, 11])
def test_pages_join_without_gap_or_overlap_where_many_were_made_at_one_moment(
    store: PredictionStore, limit_rows: int
) -> None:
    store.add("a", lines(*(forecast(number, made_s=1000.0 + number // 4) for number in range(11))))
    assert numbers(store, limit_rows=limit_rows) == list(range(11))
    assert numbers(store, since_s=1001.0, until_s=1002.0, limit_rows=limit_rows) == [4, 5, 6, 7]


def test_a_selection_is_half_open_and_names_sites_and_roles(store: PredictionStore) -> None:
    shadows = (forecast(number, role="shadow") for number in (9, 10, 11))
    store.add("a", lines(*(forecast(number) for number in range(9)), *shadows))
    assert numbers(store, since_s=1002.0, until_s=1005.0) == [2, 3, 4]
    assert numbers(store, sites=["R0", "R2"], until_s=1006.0) == [0, 2, 3, 5]
    assert numbers(store, roles=["shadow"]) == [9, 10, 11]
    assert numbers(store, roles=["shadow", "champion"], sites=["R1"]) == [1, 4, 7, 10]
    assert numbers(store, sites=[]) == []
    assert list(store.batches("traffic", "volume", since_s=9e9)) == []
    assert list(store.batches("nothing", "volume")) == []


def test_models_with_other_levels_or_steps_come_in_batches_of_their_own(store: PredictionStore) -> None:
    longer = {number: {"values": np.arange(9, dtype="<f4").tobytes()} for number in (1, 4)}
    finer = {2: {"levels": (0.05, 0.95), "values": np.arange(8, dtype="<f4").tobytes(), "model_version": "v2"}}
    store.add("a", lines(*(forecast(number, **({**longer, **finer}.get(number, {}))) for number in range(5))))
    found = {(len(batch), *batch.value_NHQ.shape[1:], batch.levels) for batch in store.batches("traffic", "volume")}
    assert found == {(2, 2, 3, (0.025, 0.5, 0.975)), (2, 3, 3, (0.025, 0.5, 0.975)), (1, 4, 2, (0.05, 0.95))}
    for batch in store.batches("traffic", "volume"):
        assert all(earlier < later for earlier, later in pairwise(batch.made_s_N))
    assert sorted(numbers(store, limit_rows=2)) == [0, 1, 2, 3, 4]


def test_the_index_serves_the_reading_in_order(tmp_path: Path) -> None:
    with closing(PredictionStore(f"sqlite:///{tmp_path}/log.db")) as store:
        store.add("a", lines(forecast(1)))
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        query = "SELECT * FROM forecasts WHERE domain = 'a' AND target = 'b' AND made_s >= 1 ORDER BY made_s LIMIT 9"
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}"))
    assert "forecasts_in_order" in plan
    assert "TEMP B-TREE" not in plan


def test_old_answers_go_and_forecasts_stay_as_long_as_an_answer_refers_to_them(store: PredictionStore) -> None:
    store.add("a", lines(*(forecast(number, domain=f"d{number % 2}") for number in range(8))))
    store.add("b", lines(*(given(number) for number in range(8)), given(8, forecast="f000000000000000")))
    # Answers 0 to 5 are old, and with them forecasts 1 to 5; the forecast 0 was given once more later.
    assert store.expire(2006.0) == {"forecasts": 5, "answers": 6}
    assert store.count() == {"forecasts": 3, "answers": 3}
    assert len(store.answers("r8")) == 1
    assert store.expire(2006.0) == {"forecasts": 0, "answers": 0}
    assert store.expire(9e9) == {"forecasts": 3, "answers": 3}


def test_old_records_go_some_at_a_time(store: PredictionStore) -> None:
    store.add("a", lines(*(record for number in range(10) for record in (forecast(number), given(number)))))
    removed = [store.expire(9e9, limit_rows=4) for _ in range(7)]
    assert [sum(one.values()) for one in removed] == [4, 4, 4, 4, 4, 0, 0]
    # Answers first: a forecast is never missing behind an answer.
    assert [one["answers"] for one in removed] == [4, 4, 2, 0, 0, 0, 0]


class Time:
    """A clock, and the time that passes."""

    def __init__(self, now_s: float) -> None:
        self.now_s, self.passed_s = now_s, 0.0

    def go_on(self, seconds: float) -> None:
        self.now_s += seconds
        self.passed_s += seconds

    def retention(self, store: PredictionStore, *, days: float) -> Retention:
        return Retention(store, days=days, clock=lambda: self.now_s, passed=lambda: self.passed_s)


def test_retention_removes_until_nothing_is_left_and_looks_again_after_an_hour(store: PredictionStore) -> None:
    store.add("a", lines(*(record for number in range(10) for record in (forecast(number), given(number)))))
    time = Time(2004.0 + 10 * DAY_S)
    keeping = time.retention(store, days=10)
    assert keeping.turn() == {"forecasts": 4, "answers": 4}
    assert keeping.turn() == {"forecasts": 0, "answers": 0}
    time.go_on(1800.0)
    assert keeping.turn() == {}
    time.go_on(1800.0)
    assert keeping.turn() == {"forecasts": 6, "answers": 6}


@pytest.mark.parametrize("jump_s", [3 * 365 * DAY_S, -9 * DAY_S])
def test_a_clock_that_jumps_removes_nothing_for_an_hour(
    store: PredictionStore, jump_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("a", lines(forecast(1), given(1)))
    time = Time(DAY_S)
    keeping = time.retention(store, days=10)
    assert keeping.turn() == {"forecasts": 0, "answers": 0}
    time.go_on(3600.0)
    time.now_s += jump_s
    assert keeping.turn() == {}
    assert "clock has jumped" in caplog.text
    time.go_on(1800.0)
    time.now_s -= jump_s  # somebody sets it right
    assert keeping.turn() == {}
    time.go_on(3600.0)
    assert keeping.turn() == {"forecasts": 0, "answers": 0}
    assert store.count() == {"forecasts": 1, "answers": 1}


def test_a_database_that_is_away_is_asked_again_after_a_minute(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.mkdir()  # no database can be opened here
    time = Time(9e9)
    with closing(PredictionStore(f"sqlite:///{path}")) as store:
        keeping = time.retention(store, days=10)
        with pytest.raises(StorageError):
            keeping.turn()
        assert keeping.turn() == {}
        path.rmdir()
        time.go_on(60.0)
        assert keeping.turn() == {"forecasts": 0, "answers": 0}


def test_nothing_is_removed_where_all_is_kept(store: PredictionStore) -> None:
    store.add("a", lines(forecast(1), given(1)))
    assert Retention(store, days=0, clock=lambda: 9e9).turn() == {}
    assert store.count() == {"forecasts": 1, "answers": 1}


def test_the_running_log_forgets_what_is_too_old(tmp_path: Path) -> None:
    settings = PredictionLogSettings(data_dir=tmp_path, prediction_log_flush_s=0.01, prediction_log_days=1)
    with closing(PredictionStore(settings.log_url)) as store:
        store.add("long ago", lines(forecast(1), given(1)))
        log = PredictionLog(settings)
        log.start()
        for _ in range(1000):
            if store.count() == {"forecasts": 0, "answers": 0}:
                break
            log._ended.wait(0.01)
        log.close()
        assert store.count() == {"forecasts": 0, "answers": 0}


FORMER = """
CREATE TABLE forecasts (
    name VARCHAR(16) NOT NULL, made_s DOUBLE PRECISION NOT NULL, domain VARCHAR NOT NULL, target VARCHAR NOT NULL,
    unit VARCHAR NOT NULL, site VARCHAR NOT NULL, origin_s BIGINT NOT NULL, step_s INTEGER NOT NULL,
    "window" VARCHAR NOT NULL, model_version VARCHAR NOT NULL, role VARCHAR NOT NULL, runtime VARCHAR NOT NULL,
    levels JSON NOT NULL, "values" {bytes} NOT NULL, PRIMARY KEY (name));
CREATE INDEX forecasts_of_a_site ON forecasts (domain, target, site, origin_s);
CREATE TABLE answers (
    segment VARCHAR NOT NULL, line INTEGER NOT NULL, request_id VARCHAR NOT NULL, answered_s DOUBLE PRECISION NOT NULL,
    caller VARCHAR NOT NULL, forecast VARCHAR(16) NOT NULL, steps INTEGER NOT NULL,
    latency_ms DOUBLE PRECISION NOT NULL, came VARCHAR NOT NULL, lowered_by JSON NOT NULL, PRIMARY KEY (segment, line));
CREATE INDEX ix_answers_forecast ON answers (forecast);
CREATE INDEX ix_answers_request_id ON answers (request_id);
CREATE INDEX ix_answers_answered_s ON answers (answered_s);
INSERT INTO forecasts VALUES ('f000000000000001', 1001, 'traffic', 'volume', 'veh/h', 'R1', 0, 3600, 'abc1@3600',
    'traffic-lstm-v1', 'champion', 'in_process', '[0.025, 0.5, 0.975]', {values});
INSERT INTO answers VALUES ('old', 0, 'r1', 2001, 'ann', 'f000000000000001', 2, 0.25, 'kept', '["stale"]');
"""


def make_former(url: str) -> None:
    """A log as the version before this one made it."""
    values = forecast(1).values.hex()
    statements = FORMER.format(
        bytes="BLOB" if url.startswith("sqlite") else "BYTEA",
        values=f"x'{values}'" if url.startswith("sqlite") else f"'\\x{values}'",
    )
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        for statement in statements.split(";"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_log_of_the_version_before_goes_on(url: str) -> None:
    make_former(url)
    with closing(PredictionStore(url)) as store:
        assert store.answers("r1") == [(given(1, caller="ann"), forecast(1))]
        assert names(store) == ["f000000000000001"]
        for _ in range(2):
            store.add("new", lines(forecast(1, made_s=7.0), forecast(2), given(2)))
        assert store.count() == {"forecasts": 2, "answers": 2}
        assert store.expire(9e9) == {"forecasts": 2, "answers": 2}
    engine = sql.create_engine(url)
    assert "forecasts_in_order" in {index["name"] for index in sql.inspect(engine).get_indexes("forecasts")}
    engine.dispose()


# As much of TimescaleDB as says what it was told, and that refuses what TimescaleDB refuses.
TIMESCALE = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (99999, 'timescaledb', 10, 'public'::regnamespace, false, '2.17.2');
CREATE TABLE told (relation text, time_column text, span text, partitioned_by text, migrated boolean, key text[]);
CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, chunk_time_interval anyelement,
    time_partitioning_func regproc DEFAULT NULL, create_default_indexes boolean DEFAULT TRUE,
    if_not_exists boolean DEFAULT FALSE, migrate_data boolean DEFAULT FALSE) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE columns text[]; kind text;
BEGIN
    SELECT array_agg(attname::text ORDER BY attnum) INTO columns FROM pg_index JOIN pg_attribute
        ON attrelid = indrelid AND attnum = ANY(indkey) WHERE indrelid = relation AND indisprimary;
    SELECT format_type(atttypid, NULL) INTO kind FROM pg_attribute
        WHERE attrelid = relation AND attname = time_column_name;
    IF NOT time_column_name = ANY(columns) THEN
        RAISE 'cannot create a unique index without the column "%" (used in partitioning)', time_column_name;
    END IF;
    IF time_partitioning_func IS NULL AND kind NOT IN ('bigint', 'integer', 'timestamp with time zone') THEN
        RAISE 'invalid type for dimension "%"', time_column_name;
    END IF;
    IF NOT EXISTS (SELECT FROM told WHERE told.relation = create_hypertable.relation::text) THEN
        INSERT INTO told VALUES (relation, time_column_name, chunk_time_interval::text, time_partitioning_func::text,
            migrate_data, columns);
    ELSIF NOT if_not_exists THEN
        RAISE 'table "%" is already a hypertable', relation;
    END IF;
END $body$;
"""


@pytest.fixture(params=["new", "former"])
def timescale(request: pytest.FixtureRequest, postgres: int) -> str:
    """Address of a database that seems to have TimescaleDB, without or with a log of the version before."""
    url = new_database(postgres, "timescale")
    if request.param == "former":
        make_former(url)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(TIMESCALE.encode())
    return url


def asked(url: str, query: str) -> list[Any]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute(query.encode()).fetchall()


def test_the_tables_become_hypertables_where_timescale_is_there(
    timescale: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # as two workers, or two starts
        with closing(PredictionStore(timescale)) as store:
            store.add("segment", lines(forecast(1), given(1)))
            store.add("segment", lines(forecast(1), given(1)))
            assert store.count()["forecasts"] == 1
            assert len(names(store)) == 1
    assert caplog.records == []
    week = "604800"
    assert asked(timescale, "SELECT * FROM told ORDER BY relation") == [
        ("answers", "answered_s", "7 days", "towncast_moment", True, ["segment", "line", "answered_s"]),
        ("forecasts", "origin_s", week, None, True, ["name", "origin_s"]),
    ]
    assert asked(timescale, "SELECT extract(epoch FROM towncast_moment(1700000000.5))") == [(1700000000.5,)]


def test_a_hypertable_that_cannot_be_made_is_said_and_logging_goes_on(
    timescale: str, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(timescale.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(b"DROP TABLE told")
    with caplog.at_level(logging.WARNING), closing(PredictionStore(timescale)) as store:
        store.add("segment", lines(forecast(1), given(1)))
        assert store.count()["forecasts"] == 1
    assert "stays in plain tables" in caplog.text


def test_the_log_tells_the_whole_story_of_a_request(make_service: Any, open_api: Any, tmp_path: Path) -> None:
    settings = PredictionLogSettings(data_dir=tmp_path, prediction_log_flush_s=0.05)
    environment = replace(read_environment(), prediction_log=settings)
    service = make_service(keep_s=300.0)
    body = {"location": {"road_id": "R001"}, "forecast_horizon": "6h", "request_id": "mine"}
    with open_api(create_app(environment=environment, services=[service])) as api:
        reply = api.request("POST", "/predict/traffic", json=body).json()
    with closing(PredictionStore(settings.log_url)) as store:
        ((answer, made),) = store.answers("mine")
        (batch,) = store.batches(made.domain, made.target)
    assert (made.domain, made.target, made.unit, made.site) == ("traffic", "volume", "veh/h", "R001")
    assert made.model_version == reply["model_version"]
    assert made.role == "champion"
    version, _, origin = made.window.rpartition("@")
    assert len(version) >= 16  # the hash of all readings in the window
    assert int(origin) == made.origin_s
    first = np.datetime64(made.origin_s + made.step_s, "s")
    assert reply["predictions"][0]["timestamp"] == f"{first}Z"
    assert answer.steps == len(reply["predictions"]) == 6
    assert 0 < answer.latency_ms == pytest.approx(reply["inference_time_ms"])
    assert list(answer.lowered_by) == reply["quality"]["lowered_by"]
    assert made.made_s <= answer.answered_s
    assert made.levels == (0.025, 0.5, 0.975)
    intervals = [entry["confidence_interval"] for entry in reply["predictions"]]
    assert [np.floor(low) for low in made.value_HQ()[:6, 0]] == [one["lower"] for one in intervals]
    assert [np.ceil(high) for high in made.value_HQ()[:6, 2]] == [one["upper"] for one in intervals]
    assert (batch.name_N[0], batch.made_s_N[0]) == (made.name, made.made_s)
    np.testing.assert_array_equal(batch.value_NHQ[0], made.value_HQ())


def test_a_large_segment_of_the_journal_is_entered_whole(tmp_path: Path) -> None:
    settings = PredictionLogSettings(data_dir=tmp_path)
    settings.journal_dir.mkdir(parents=True)
    records = [record for number in range(10_000) for record in (forecast(number), given(number))]
    (settings.journal_dir / "1-1.jsonl").write_bytes(to_lines(records))
    log = PredictionLog(settings)
    log.start()
    log.close()
    with closing(PredictionStore(settings.log_url)) as store:
        assert store.count() == {"forecasts": 10_000, "answers": 10_000}
