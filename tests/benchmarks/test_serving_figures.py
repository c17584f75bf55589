"""What the serving benchmarks make of what they measured."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.clients import Outcome
from benchmarks.kill import Blow, judge
from benchmarks.serving_bars import INFER, KEPT, MADE, Bar, rate_bars
from benchmarks.serving_peers.peers import BASELINE
from benchmarks.soak import growth


def server(*ratios: float, p99_ms: float = 1.0) -> dict[str, Any]:
    """A server's figures at 32 and 128 clients."""
    return {
        str(clients): {"requests_per_s": 100.0 * ratio, "ratio": ratio, "p99_ms": p99_ms, "p50_ms": 1.0, "errors": 0}
        for clients, ratio in zip((32, 128), ratios, strict=True)
    }


def bar_of(bars: Sequence[Bar], words: str) -> Bar:
    return next(bar for bar in bars if words in bar.name)


def test_bars_take_the_worst_number_of_clients_and_the_best_peer() -> None:
    servers = {
        BASELINE: server(1.0, 1.0),
        "strong": server(1.1, 2.0),
        "absent": {"unavailable": "no wheel"},
        INFER: server(1.5, 1.6),
        MADE: server(2.5, 2.1, p99_ms=31.0),
        KEPT: server(9.0, 7.9, p99_ms=99.0),
    }
    bars = rate_bars(servers, (32, 128))
    found = {words: bar_of(bars, words) for words in (f"{INFER}: rate to F", f"{MADE}: rate", f"{KEPT}: rate")}
    assert [(bar.found, bar.met) for bar in found.values()] == [(1.5, True), (2.1, True), (7.9, False)]
    assert (bar_of(bars, "best peer").found, bar_of(bars, "best peer").met) == (0.8, False)
    assert not bar_of(bars, "p99 at 32").met
    assert bar_of(bars, "p99 at 128").met


def test_what_was_not_measured_is_not_met() -> None:
    bars = rate_bars({BASELINE: server(1.0, 1.0), MADE: server(3.0, 3.0)}, (32, 128))
    assert not bar_of(bars, f"{KEPT}: rate").met
    assert not bar_of(bars, "best peer").met
    assert bar_of(bars, f"{MADE}: rate").met


@pytest.mark.parametrize(("found", "met"), [(4.9, True), (5.0, True), (5.1, False), (None, False)])
def test_a_bar_at_most(found: float | None, met: bool) -> None:
    assert Bar(name="time", found=found, limit=5.0, at_least=False).met is met


def outcome(at_s: float, status: int, *, runtime: str = "", took_s: float = 0.0) -> Outcome:
    return Outcome(request_id="r", connection=1, asked_s=at_s, took_s=took_s, status=status, runtime=runtime, fault="x")


def test_a_failure_belongs_to_the_kill_before_it_came() -> None:
    blows = [Blow(name="nothing", at_s=0.0), Blow(name="TorchServe", at_s=10.0), Blow(name="worker", at_s=20.0)]
    outcomes = [
        outcome(1.0, 200, runtime="torchserve"),
        # Asked before the kill, failed after it.
        outcome(9.9, 503, took_s=0.6),
        outcome(11.0, 200, runtime="in_process"),
        outcome(20.0, 0, took_s=0.5),
        outcome(21.0, 200, runtime="in_process"),
    ]
    nothing, torchserve, worker = judge(blows, outcomes)
    assert (nothing["answers"], nothing["refused"], nothing["broken"]) == (1, 0, 0)
    assert (torchserve["answers"], torchserve["refused"], torchserve["last_failure_s"]) == (1, 1, 0.5)
    assert torchserve["runtimes"] == {"in_process": 1}
    assert (worker["answers"], worker["broken"], worker["last_failure_s"]) == (1, 1, 0.5)


def test_growth_is_from_the_third_minute_to_the_last() -> None:
    # What is taken while everything warms up does not count, and neither does one peak.
    memory = [
        (float(second), 100.0 + min(second, 120) + (500.0 if second == 150 else 0.0)) for second in range(0, 600, 5)
    ]
    assert growth(memory, duration_s=600.0) == {"early_mb": 220.0, "late_mb": 220.0, "growth": 0.0}
    leaking = [(float(second), 100.0 + second) for second in range(0, 600, 5)]
    assert growth(leaking, duration_s=600.0)["growth"] > 1.0
