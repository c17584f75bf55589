"""The audit log: whole lines, whatever is in them, and not more of them than a disk can hold."""

import json
import logging
import threading
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.request_context import CALLER, REQUEST_ID, Caller
from serving.security.audit import CLIENT, AuditLog, RefusalAudit, audit

NOW_S = 1770368400.0


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_an_event_says_who_asked_from_where(tmp_path: Path) -> None:
    def work() -> None:
        REQUEST_ID.set("req-1")
        CALLER.set(Caller(name="boss", scopes=frozenset({"admin"})))
        CLIENT.set("10.0.0.7")
        audit("rolled_back", domain="traffic", share=0.5, versions=("3", "4"), scopes={"b", "a"}, broken=float("nan"))

    path = tmp_path / "var" / "audit.log"
    with AuditLog(path):
        Context().run(work)
        Context().run(audit, "started")
    first, second = events(path)
    assert (first.pop("time")[-1], second.pop("time")[-1]) == ("Z", "Z")
    assert first == {
        "event": "rolled_back",
        "request_id": "req-1",
        "caller": "boss",
        "client": "10.0.0.7",
        "domain": "traffic",
        "share": 0.5,
        "versions": ["3", "4"],
        "scopes": ["a", "b"],
        "broken": "nan",
    }
    assert second == {"event": "started"}
    assert path.stat().st_mode & 0o007 == 0


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(value=st.text(), other=st.binary())
def test_no_content_breaks_a_line(tmp_path: Path, value: str, other: bytes) -> None:
    path = tmp_path / "audit.log"
    path.unlink(missing_ok=True)
    with AuditLog(path):
        audit("refused", path=value, body=other, event_time="\n{}\x1b[2J\u2028\u202e")
    (written,) = events(path)
    assert written["path"] == value[:200]
    assert path.read_text(encoding="ascii").count("\n") == 1


def test_all_lines_of_many_threads_are_there_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"

    def work(number: int) -> None:
        for turn in range(200):
            audit("work", number=number, turn=turn)

    with AuditLog(path):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {(event["number"], event["turn"]) for event in events(path)} == {
        (n, t) for n in range(4) for t in range(200)
    }


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    for name in ("first", "second"):
        log.open()
        audit(name)
        log.close()
        path.rename(tmp_path / name)
    log.open()
    audit("third")
    log.close()
    assert [events(tmp_path / name)[0]["event"] for name in ("first", "second", "audit.log")] == [
        "first",
        "second",
        "third",
    ]


def test_a_flood_of_refusals_is_counted_in_place_of_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    refusals = RefusalAudit()
    with AuditLog(path):
        for _ in range(5000):
            refusals.write("unknown", client="10.0.0.7", now_s=NOW_S, path="/metrics")
        refusals.write("unknown", client="10.0.0.8", now_s=NOW_S + 1, path="/metrics")
        for number in range(500):
            refusals.write("rate", client=str(number), now_s=NOW_S + 2, path="/metrics")
        refusals.write("unknown", client="10.0.0.7", now_s=NOW_S + 60, path="/metrics")
    written = events(path)
    assert len(written) == 100 + 2
    assert sum(event["event"] == "refusals_left_out" for event in written) == 1
    left_out = written[-2]
    assert (left_out["number"], left_out["minute"]) == (5000 + 1 + 500 - 100, "2026-02-06T09:00:00Z")


def test_what_cannot_be_written_is_said_in_the_ordinary_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    with AuditLog(tmp_path / "taken" / "audit.log"):
        audit("key_added", name="shop")
    # Other parts of the process may have something to say meanwhile.
    (record,) = [record for record in caplog.records if record.name == "serving.security.audit"]
    assert "key_added" in record.getMessage()
    assert record.levelno == logging.ERROR


def test_without_a_file_events_go_to_the_ordinary_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        audit("rolled_back", domain="traffic")
    assert "rolled_back" in caplog.text
