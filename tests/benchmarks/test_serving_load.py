"""The load generator and the clients of the serving benchmarks, against small servers that are really there."""

import asyncio
import contextlib
import json
import shutil
import socketserver
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.clients import Clients
from benchmarks.load import Call, Load, drive, keep_calls, median_load, read_load
from benchmarks.serving_connection import Connection, dechunked

Answer = Callable[[bytes, bytes], bytes]


def reply(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def listening(answer: Answer) -> Iterator[int]:
    """A server that answers each request by a function of its head and its body; no answer ends the connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = self.rfile.readline()
                    if not line:
                        return
                    head += line
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                body = self.rfile.read(int(lengths[0].split(b":")[1])) if lengths else b""
                said = answer(head, body)
                if not said:
                    return
                self.wfile.write(said)

    with Tcp(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


@needs_wrk
def test_the_load_takes_the_calls_in_turns_and_counts_what_was_refused(tmp_path: Path) -> None:
    seen: Counter[bytes] = Counter()

    def answer(head: bytes, body: bytes) -> bytes:
        seen[head.split(b" ")[1] + b" " + body] += 1
        assert b"X-API-Key: k" in head
        return reply(b"{}", "503 Service Unavailable" if body == b"[2]" else "200 OK")

    calls = [Call(path=f"/{number}", body=b"[%d]" % number, headers={"X-API-Key": "k"}) for number in (1, 2, 3, 4)]
    with listening(answer) as port:
        load = drive(port, keep_calls(calls, tmp_path / "calls"), clients=2, duration_s=1)
    assert set(seen) == {b"/1 [1]", b"/2 [2]", b"/3 [3]", b"/4 [4]"}
    assert max(seen.values()) - min(seen.values()) <= 2
    # What is on its way at the end is answered, and not counted.
    assert abs(load.errors - seen[b"/2 [2]"]) <= 2
    assert abs(load.answers - seen.total()) <= 4
    assert 0 < load.p50_ms <= load.p99_ms <= load.longest_ms


@needs_wrk
def test_a_pause_lowers_the_rate(tmp_path: Path) -> None:
    calls = keep_calls([Call(path="/")], tmp_path / "calls")
    with listening(lambda head, body: reply(b"{}")) as port:
        load = drive(port, calls, clients=2, duration_s=1, pause_ms=100)
    # Two clients, 0 to 200 ms between their questions; without a pause there would be hundreds.
    assert 2 <= load.answers <= 100


def test_a_load_is_read_from_the_last_line() -> None:
    line = (
        '{"answers": 300, "duration_us": 2000000, "refused": 2, "broken": 1,'
        ' "p50_us": 1500, "p99_us": 9000, "longest_us": 20000}'
    )
    assert read_load(line) == Load(requests_per_s=150.0, p50_ms=1.5, p99_ms=9.0, longest_ms=20.0, errors=3, answers=300)


def test_rounds_are_joined_by_medians_and_errors_are_summed() -> None:
    rounds = [
        Load(requests_per_s=rate, p50_ms=half, p99_ms=tail, longest_ms=tail * 2, errors=errors, answers=10)
        for rate, half, tail, errors in ((100.0, 1.0, 5.0, 0), (300.0, 3.0, 50.0, 2), (200.0, 2.0, 9.0, 1))
    ]
    joined = median_load(rounds)
    assert (joined.requests_per_s, joined.p50_ms, joined.p99_ms) == (200.0, 2.0, 9.0)
    assert (joined.longest_ms, joined.errors, joined.answers) == (100.0, 3, 30)


def test_a_connection_reads_bodies_with_a_length_and_in_parts() -> None:
    body = json.dumps({"results": list(range(5000))}).encode()
    parts = [body[start : start + 999] for start in range(0, len(body), 999)]
    streamed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    def answer(head: bytes, body_: bytes) -> bytes:
        whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + streamed
        return whole if head.startswith(b"POST /parts") else reply(body)

    with listening(answer) as port:
        connection = Connection(port)
        # In turns on one connection: what is left of one answer would spoil the next.
        for _ in range(3):
            assert connection.ask(Call(path="/whole", body=b"{}").as_bytes()) == body
            assert dechunked(connection.ask(Call(path="/parts", body=b"{}").as_bytes())) == body
        connection.close()


def test_a_connection_refuses_errors() -> None:
    with listening(lambda head, body: reply(b"{}", "404 Not Found")) as port:
        connection = Connection(port)
        with pytest.raises(RuntimeError, match="404"):
            connection.ask(Call(path="/").as_bytes())
        connection.close()


def test_clients_remember_answers_refusals_and_broken_connections() -> None:
    def answer(head: bytes, body: bytes) -> bytes:
        number = int(json.loads(body))
        if number % 10 == 3:
            return b""
        if number % 10 == 5:
            return reply(b'{"error": "busy"}', "503 Service Unavailable")
        return reply(b'{"quality": {"runtime": "torchserve", "lowered_by": ["stale"]}}')

    def questions() -> Iterator[tuple[str, Call]]:
        for number in range(1_000_000):
            if number == 40:
                clients.stop()
            yield f"q{number}", Call(path="/", body=b"%d" % number)

    with listening(answer) as port:
        clients = Clients(port=port, count=3, calls=questions, questions_each=4)
        asyncio.run(asyncio.wait_for(clients.run(), timeout=20))
    outcomes = {one.request_id: one for one in clients.outcomes}
    assert {f"q{number}" for number in range(40)} <= set(outcomes)
    for number in range(40):
        status = {3: 0, 5: 503}.get(number % 10, 200)
        assert outcomes[f"q{number}"].status == status
    assert outcomes["q3"].fault
    assert "busy" in outcomes["q5"].fault
    assert (outcomes["q0"].runtime, outcomes["q0"].lowered_by) == ("torchserve", ("stale",))
    assert clients.reconnects == sum(one.status == 0 for one in clients.outcomes)
    # A new connection after four questions: there are more of them than clients.
    assert max(one.connection for one in clients.outcomes) >= 10
