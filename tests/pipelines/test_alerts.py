"""Alerts, to a webhook and a mail server that really listen."""

import json
import logging
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.alerts import Alert, AlertDesk

HOUR_S = 3600.0


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    got: list[dict[str, str]]
    status = 200

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).got.append(json.loads(self.rfile.read(length)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a letter needs."""

    got: list[str]

    def handle(self) -> None:
        self.say("220 town ready")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "DATA":
                self.say("354 go on")
                letter = []
                while (part := self.rfile.readline().decode()).strip() != ".":
                    letter.append(part)
                type(self).got.append("".join(letter))
            self.say("221 bye" if verb == "QUIT" else "250 town")
            if verb == "QUIT":
                return

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def listening(server: socketserver.BaseServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host, port = server.server_address[:2]  # type: ignore[misc]
    try:
        yield f"{host}:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hook() -> type[Hook]:
    return type("OwnHook", (Hook,), {"got": []})


def alert(state: str = "harmed: A", *, level: str = "warning", key: str = "traffic/volume/performance") -> Alert:
    return Alert(key=key, state=state, level=level, title=f"title {state}", text="text")  # type: ignore[arg-type]


def desk(path: Path, *urls: str) -> AlertDesk:
    return AlertDesk(" ".join(urls), path / "alerts.json", reminder_s=24 * HOUR_S)


def test_a_state_is_told_once_until_it_changes_and_again_daily(tmp_path: Path, hook: type[Hook]) -> None:
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), hook)) as address:
        own = desk(tmp_path, f"http://{address}/hook")
        assert own.tell([alert("healthy", level="ok")], now_s=0) == 0
        assert own.tell([alert()], now_s=0) == 1
        assert own.tell([alert()], now_s=HOUR_S) == 0
        # Another process knows what was told.
        assert desk(tmp_path, f"http://{address}/hook").tell([alert()], now_s=23 * HOUR_S) == 0
        assert own.tell([alert()], now_s=24 * HOUR_S) == 1
        assert own.tell([alert("harmed: A, B")], now_s=25 * HOUR_S) == 1
        assert own.tell([alert("healthy", level="ok")], now_s=26 * HOUR_S) == 1
        assert own.tell([alert("healthy", level="ok")], now_s=99 * HOUR_S) == 0
    titles = [one["title"] for one in hook.got]
    assert titles == ["title harmed: A", "title harmed: A", "title harmed: A, B", "title healthy"]
    assert [one["type"] for one in hook.got] == ["warning", "warning", "warning", "success"]


def test_news_is_told_once_without_reminders(tmp_path: Path, hook: type[Hook]) -> None:
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), hook)) as address:
        own = desk(tmp_path, f"json://{address}/hook")
        news = alert("version 3 is champion", level="info", key="traffic/retraining")
        assert [own.tell([news], now_s=day * 24 * HOUR_S) for day in range(3)] == [1, 0, 0]
    assert len(hook.got) == 1


def test_a_dead_webhook_is_tried_again_and_the_mail_is_not_sent_twice(
    tmp_path: Path, hook: type[Hook], caplog: pytest.LogCaptureFixture
) -> None:
    mail = type("OwnMail", (Mail,), {"got": []})
    hook.status = 503
    with (
        listening(ThreadingHTTPServer(("127.0.0.1", 0), hook)) as address,
        listening(socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail)) as post,
    ):
        letters = f"mailto://{post}?from=towncast@town.org&to=asha@town.org"
        own = desk(tmp_path, f"http://{address}/secret-token", letters)
        assert own.tell([alert()], now_s=0) == 1
        assert (len(hook.got), len(mail.got)) == (1, 1)
        assert "could not be sent by http" in caplog.text
        assert "secret-token" not in caplog.text
        hook.status = 200
        # At the next look, even if that has nothing to tell.
        assert own.tell([], now_s=60) == 1
        assert own.tell([alert()], now_s=120) == 0
    assert (len(hook.got), len(mail.got)) == (2, 1)
    assert "Subject: title harmed: A" in mail.got[0]
    assert "secret-token" not in (tmp_path / "alerts.json").read_text()


def test_nobody_to_tell_is_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert desk(tmp_path).tell([alert()], now_s=0) == 1
    assert "title harmed: A: text" in caplog.text
    assert desk(tmp_path).tell([alert()], now_s=1) == 0


@pytest.mark.parametrize("urls", ["nonsense://x", "http://127.0.0.1:9/nobody", "not an address"])
def test_an_address_that_is_none_fails_no_job(tmp_path: Path, urls: str) -> None:
    assert desk(tmp_path, urls).tell([alert()], now_s=0) == 1


def test_what_cannot_be_kept_is_logged_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "var").write_text("", encoding="utf-8")
    assert AlertDesk("", tmp_path / "var" / "alerts.json", reminder_s=1).tell([alert()]) == 0
    assert "title harmed: A: text" in caplog.text
    assert "cannot be kept" in caplog.text
    (tmp_path / "alerts.json").write_text("{", encoding="utf-8")
    assert desk(tmp_path).tell([alert()], now_s=0) == 1
