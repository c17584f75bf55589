"""The subjects of the serving benchmark: the graph, its domain, the peers' environments and their requests."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving_gateway import reply_differences
from benchmarks.serving_peers.environments import PeerUnavailableError, environment, versions
from benchmarks.serving_peers.peers import BASELINE, PEERS, plain_call, protocol_call, start_peer, window_lists
from benchmarks.serving_rates import Truth, WrongAnswerError, bare_session, check_peer, run_bare
from benchmarks.serving_subject import TRAFFIC, random_lstm
from serving.artifacts import Artifact

_ROOT = Path(__file__).parents[2]


def some_window(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "history": (TRAFFIC.history_steps, len(TRAFFIC.history_channels)),
        "future": (TRAFFIC.horizon_steps, len(TRAFFIC.future_channels)),
        "static": (len(TRAFFIC.static_channels),),
    }
    return {name: rng.uniform(0, 2000, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return random_lstm(tmp_path_factory.mktemp("lstm"))


@pytest.fixture(scope="module")
def truth(artifact: Artifact) -> Truth:
    session, windows = bare_session(artifact.graph), tuple(some_window(seed) for seed in range(3))
    quantiles = np.stack([run_bare(session, window) for window in windows])
    return Truth(roads=("A", "B", "C"), windows=windows, quantiles=quantiles)


def test_the_graph_forecasts_differently_for_different_windows_in_order_of_level(truth: Truth) -> None:
    assert np.abs(np.diff(truth.quantiles, axis=0)).max() > 1.0
    assert (np.diff(truth.quantiles, axis=-1) > 0).all()


def test_the_domain_of_the_benchmark_has_a_window_of_24_by_50() -> None:
    script = (
        "from features.domains import DOMAINS; from features.domains.traffic import TRAFFIC;"
        "from benchmarks.serving_domain import substitute; substitute(); substitute();"
        "traffic = DOMAINS['traffic'];"
        "print(traffic is TRAFFIC, traffic.history_steps, len(traffic.history_channels), traffic.static_channels)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=3) == ["True", "24", "50", "('site_code',)\n"]


def test_bodies_hold_every_float32_exactly() -> None:
    window = some_window(0)
    plain = json.loads(plain_call(window).body)
    protocol = json.loads(protocol_call("/v2/models/m/infer", window).body)
    for tensor in protocol["inputs"]:
        name, shape = tensor["name"], (1, *window[tensor["name"]].shape)
        assert tuple(tensor["shape"]) == shape
        assert (np.array(tensor["data"], dtype=np.float32).reshape(shape)[0] == window[name]).all()
        assert (np.array(plain[name], dtype=np.float32) == window[name]).all()
    # Not the 17 digits of the float64: the size of the body is part of what is measured.
    assert len(json.dumps(window_lists(window)["static"])) < 14 * window["static"].size + 2


def test_an_environment_is_made_once_and_is_not_ours(tmp_path: Path) -> None:
    python = environment("empty", [], cache=tmp_path)
    (tmp_path / python.parts[len(tmp_path.parts)] / "ours").touch()
    assert environment("empty", [], cache=tmp_path) == python
    assert python.parents[1].joinpath("ours").exists()
    with pytest.raises(PeerUnavailableError, match="numpy"):
        versions(python, ["numpy"])


def test_a_peer_that_cannot_be_installed_says_so_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PeerUnavailableError, match="nothing-here"):
            environment("broken", [str(tmp_path / "nothing-here")], cache=tmp_path)


def test_the_minimal_peer_answers_what_the_graph_answers(artifact: Artifact, truth: Truth, tmp_path: Path) -> None:
    # In this environment, which has all that it needs.
    peer = dataclasses.replace(next(peer for peer in PEERS if peer.name == BASELINE), packages=())
    process, port = start_peer(peer, artifact.graph, truth.windows[0], tmp_path, cores=[])
    try:
        check_peer(peer, port, truth)
        other = dataclasses.replace(truth, quantiles=truth.quantiles + 1.0)
        with pytest.raises(WrongAnswerError, match="differs"):
            check_peer(peer, port, other)
        assert process.memory_mb() > 10
    finally:
        process.stop()


def test_replies_are_compared_with_the_graph_as_they_are_rounded() -> None:
    quantiles = np.array([[800.2, 850.0, 1000.6, 1150.0, 1200.1]], dtype=np.float32)
    entry = {"traffic_volume": 1001, "confidence_interval": {"lower": 800, "upper": 1201}}
    assert reply_differences({"predictions": [entry]}, quantiles) == 0.0
    assert reply_differences({"predictions": [{**entry, "traffic_volume": 1003}]}, quantiles) == 2.0
