"""API keys in their database: SQLite, and PostgreSQL where it is there."""

import itertools
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from features.errors import InvalidParameterError, StorageError, TowncastError, UnknownNameError
from serving.security.keys import KeyStore, digest_of, split_key


def postgres_user() -> list[str]:
    """PostgreSQL does not run as root."""
    return ["runuser", "-u", "postgres", "--"] if Path("/proc/self").stat().st_uid == 0 else []


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a PostgreSQL of the test's own."""
    if shutil.which("postgres") is None or shutil.which("initdb") is None:
        pytest.skip("PostgreSQL is not installed")
    # Not in pytest's own folder, which is root's alone.
    with tempfile.TemporaryDirectory(prefix="towncast-postgres-") as folder:
        if postgres_user():
            shutil.chown(folder, "postgres")
        words = ["initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "town", "--no-sync"]
        subprocess.run([*postgres_user(), *words], check=True, capture_output=True, cwd="/")
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            port = opened.getsockname()[1]
        words = ["postgres", "-D", f"{folder}/data", "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
        with subprocess.Popen(
            [*postgres_user(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        ) as server:
            url = f"postgresql+psycopg://town@127.0.0.1:{port}/postgres"
            while server.poll() is None:
                with closing(KeyStore(url)) as store, suppress(StorageError):
                    store.revision()
                    break
                time.sleep(0.05)
            yield url
            words = ["pg_ctl", "-D", f"{folder}/data", "stop", "-m", "immediate"]
            subprocess.run([*postgres_user(), *words], check=True, capture_output=True, cwd="/")
            server.wait()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyStore]:
    url = f"sqlite:///{tmp_path}/keys.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    with closing(KeyStore(url)) as opened:
        yield opened
        for key in opened.keys():
            opened.revoke(key.key_id)


def test_a_key_is_shown_once_and_only_its_hash_is_kept(store: KeyStore) -> None:
    key, text = store.add("shop", ["predict", "data"], requests_per_minute=60)
    parts = split_key(text)
    assert parts is not None
    # 43 characters of 6 bits hold 256.
    assert re.fullmatch(r"tc_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    kept = next(one for one in store.keys() if one.key_id == key.key_id)
    assert kept == key
    assert kept.digest == digest_of(parts[1])
    assert parts[1] not in repr(kept)


def test_every_change_raises_the_revision_and_nothing_else_does(store: KeyStore) -> None:
    revisions = [store.revision()]
    key, _ = store.add("first", ["admin"])
    revisions.append(store.revision())
    rotated, _ = store.rotate(key.key_id)
    revisions.append(store.revision())
    store.revoke(rotated.key_id)
    revisions.append(store.revision())
    assert all(later > earlier for earlier, later in itertools.pairwise(revisions))
    store.note_uses({key.key_id: 1770368400})
    store.note_uses({})
    assert store.revision() == revisions[-1]


def test_last_use_only_grows(store: KeyStore) -> None:
    key, _ = store.add("used", ["data"])
    for at_s in (1770368400, 1770368000):
        store.note_uses({key.key_id: at_s, "nobody": 5})
    assert next(one for one in store.keys() if one.key_id == key.key_id).last_used_s == 1770368400


def test_rotation_ends_the_old_key_at_once_or_after_the_overlap(store: KeyStore) -> None:
    now_s = time.time()
    old, old_text = store.add("rotated", ["predict"], requests_per_minute=7)
    new, new_text = store.rotate(old.key_id, overlap_s=3600)
    newest, _ = store.rotate(new.key_id)
    states = {key.key_id: key for key in store.keys()}
    assert new_text != old_text
    assert (newest.name, newest.scopes, newest.requests_per_minute) == ("rotated", frozenset({"predict"}), 7)
    assert states[old.key_id].state(now_s + 60) == "active"
    assert states[old.key_id].state(now_s + 3700) == "expired"
    assert states[new.key_id].state(now_s) == "revoked"
    with pytest.raises(InvalidParameterError, match="towncast keys add"):
        store.rotate(new.key_id)


@pytest.mark.parametrize("name", ["", "a b", "../x", "loopback", "token:x", "é", "-x", "x" * 65, "a\nb", "a\n"])
def test_names_that_could_pass_for_others_or_break_a_line_are_refused(tmp_path: Path, name: str) -> None:
    with closing(KeyStore(f"sqlite:///{tmp_path}/keys.db")) as store:
        with pytest.raises(InvalidParameterError):
            store.add(name, ["predict"])
        assert store.keys() == []


def test_scopes_that_there_are_not_are_refused_with_near_ones(tmp_path: Path) -> None:
    with closing(KeyStore(f"sqlite:///{tmp_path}/keys.db")) as store:
        with pytest.raises(InvalidParameterError) as refused:
            store.add("shop", ["predict", "dat"])
        assert refused.value.nearest == ["data"]
        with pytest.raises(InvalidParameterError):
            store.add("shop", [])


def test_an_unknown_id_is_answered_with_near_ones_or_that_of_the_name(tmp_path: Path) -> None:
    with closing(KeyStore(f"sqlite:///{tmp_path}/keys.db")) as store:
        key, _ = store.add("shop", ["data"])
        for asked in (key.key_id[:-1] + "x", "shop"):
            with pytest.raises(UnknownNameError) as refused:
                store.revoke(asked)
            assert refused.value.nearest == [key.key_id]


def test_of_two_commands_at_once_one_gets_the_name(store: KeyStore) -> None:
    store.add("warm", ["data"])

    def work(number: int) -> bool:
        try:
            store.add("taken", ["data"])
        except TowncastError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(8))) == 1
    assert sum(key.name == "taken" and key.revoked_s is None for key in store.keys()) == 1


def test_reading_makes_no_file_and_the_file_is_the_owners_alone(tmp_path: Path) -> None:
    with closing(KeyStore(f"sqlite:///{tmp_path}/var/keys.db")) as store:
        assert (store.keys(), store.revision()) == ([], 0)
        assert not list(tmp_path.iterdir())
        store.add("shop", ["data"])
    assert (tmp_path / "var" / "keys.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "url", ["sqlite:///{folder}/broken.db", "postgresql+psycopg://town:hidden@127.0.0.1:1/x", "sqlite:///{folder}"]
)
def test_a_database_that_cannot_be_used_is_one_clear_error_without_its_password(tmp_path: Path, url: str) -> None:
    (tmp_path / "broken.db").write_text("no database" * 100)
    with closing(KeyStore(url.format(folder=tmp_path))) as store, pytest.raises(StorageError) as refused:
        store.keys()
    assert "TOWNCAST_KEYS_URL" in str(refused.value)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["nothing", "oracle9://x:hidden@y/z"])
def test_an_address_that_cannot_be_one_is_told_without_its_password(url: str) -> None:
    with closing(KeyStore(url)) as store, pytest.raises(InvalidParameterError) as refused:
        store.keys()
    assert "hidden" not in str(refused.value)


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    path: Any = tmp_path / "keys.db"
    with closing(KeyStore(f"sqlite:///{path}")) as store, closing(sqlite3.connect(path)) as other:
        store.add("first", ["data"])
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "second", ["data"])
            assert not adding.done()
            other.rollback()
            adding.result(timeout=10)
        assert {key.name for key in store.keys()} == {"first", "second"}
