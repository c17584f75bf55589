"""`towncast keys` on the command line."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.errors import TowncastError
from pipelines.cli import app
from serving.security.keys import KeyStore


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["keys", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["keys", *words])
    assert isinstance(result.exception, TowncastError), result.output
    return str(result.exception)


def key_in(output: str) -> tuple[str, str]:
    """Id and secret of the key that was shown."""
    found = re.search(r"^tc_([0-9a-f]{12})_(\S{43})$", output, re.MULTILINE)
    assert found is not None
    return found[1], found[2]


def test_a_key_lives_from_add_to_revoke(data_dir: Path) -> None:
    assert "no keys yet" in run("list")
    key_id, secret = key_in(run("add", "shop", "--scope", "predict", "--scope", "data", "--expires", "90d"))
    listed = run("list")
    for shown in (key_id, "shop", "data predict", "as the API", "active"):
        assert shown in listed
    new_id, new_secret = key_in(run("rotate", key_id, "--overlap", "24h"))
    assert len({key_id, new_id}) == len({secret, new_secret}) == 2
    assert "is revoked" in run("revoke", new_id)
    assert "revoked" in run("list")
    for text in (listed, run("list"), (data_dir / "audit.log").read_text()):
        assert secret not in text
        assert new_secret not in text
    lines = [json.loads(line) for line in (data_dir / "audit.log").read_text().splitlines()]
    assert [(line["event"], line["key_id"]) for line in lines] == [
        ("key_added", key_id),
        ("key_rotated", new_id),
        ("key_revoked", new_id),
    ]
    assert lines[1]["old_key_id"] == key_id
    assert all(line["by"] and line["name"] == "shop" for line in lines)


def test_options_are_kept(data_dir: Path) -> None:
    run("add", "free", "--scope", "metrics", "--requests-per-minute", "0")
    run("add", "slow", "--scope", "metrics", "--requests-per-minute", "7", "--expires", "2w")
    free, slow = sorted(KeyStore(f"sqlite:///{data_dir}/keys.db").keys(), key=lambda key: key.name)
    assert (free.requests_per_minute, free.expires_s) == (0, None)
    assert slow.expires_s is not None
    assert (slow.requests_per_minute, slow.expires_s - slow.created_s) == (7, pytest.approx(14 * 86400, abs=5))
    assert "no limit" in run("list")


def test_what_cannot_be_is_told_with_the_remedy() -> None:
    assert "Scopes are: predict" in refused("add", "shop", "--scope", "predit")
    for duration in ("soon", "0d", "-1d", "1y", "90", "9999999d"):
        assert "such as 12h" in refused("add", "shop", "--scope", "data", "--expires", duration)
    key_id, _ = key_in(run("add", "shop", "--scope", "data"))
    assert "Rotate that key" in refused("add", "shop", "--scope", "data")
    assert key_id in refused("revoke", "shop")
    assert "no API key" in refused("rotate", "nobody")
    assert CliRunner().invoke(app, ["keys", "add", "shop"]).exit_code == 2
