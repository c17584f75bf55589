"""`towncast keys`: make, list, revoke and rotate the keys of the API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from serving.security.keys import ApiKey, KeyStore

keys_commands = typer.Typer(
    help="Make, list, revoke and rotate the keys of the API. A running API knows a change within two seconds.",
    no_args_is_help=True,
)
_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = "such as 12h, 90d or 26w"


@keys_commands.command()
def add(
    name: Annotated[str, typer.Argument(help="Who it is for.", show_default=False)],
    scope: Annotated[
        list[str],
        typer.Option(help="What it may do, one or more of: predict, data, readings, sessions, metrics, admin."),
    ],
    expires: Annotated[str | None, typer.Option(help=f"When it ends by itself, {_DURATION}. Default: never.")] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Its own rate limit, 0 for none. Default: the API's.", min=0)
    ] = None,
) -> None:
    """Make a key, and show it once.

    towncast keys add shop --scope predict --scope data --expires 90d
    """
    import time

    with _opened() as (store, console):
        ends_s = None if expires is None else int(time.time()) + _seconds(expires, "expires")
        key, text = store.add(name, scope, expires_s=ends_s, requests_per_minute=requests_per_minute)
        _audit("key_added", key, scopes=key.scopes, expires_s=key.expires_s)
        _show(console, key, text)


@keys_commands.command(name="list")
def show() -> None:
    """List all keys: whose they are, what they may do, when they end and were last used. Never a secret."""
    import time

    from rich.markup import escape
    from rich.table import Table

    from serving.text import utc_text

    def moment(value: int | None) -> str:
        return "" if value is None else utc_text(value)[:16].replace("T", " ")

    with _opened() as (store, console):
        keys = store.keys()
        if not keys:
            console.print("There are no keys yet. Make one with: towncast keys add NAME --scope predict")
            return
        table = Table(title="API keys, moments in UTC", title_justify="left")
        for column in ("id", "name", "scopes", "per minute", "state", "made", "ends", "used"):
            table.add_column(column, overflow="fold", no_wrap=column == "id")
        now_s = time.time()
        for key in keys:
            state = key.state(now_s)
            limit = {None: "as the API", 0: "no limit"}.get(key.requests_per_minute, str(key.requests_per_minute))
            table.add_row(
                key.key_id,
                escape(key.name),
                " ".join(sorted(key.scopes)),
                limit,
                state if state == "active" else f"[yellow]{state}[/]",
                moment(key.created_s),
                moment(key.revoked_s if key.revoked_s is not None else key.expires_s),
                moment(key.last_used_s),
            )
        console.print(table)


@keys_commands.command()
def revoke(key_id: Annotated[str, typer.Argument(help="Id of the key.", show_default=False)]) -> None:
    """End a key at once.

    towncast keys revoke 0123456789ab
    """
    from rich.markup import escape

    with _opened() as (store, console):
        key = store.revoke(key_id)
        _audit("key_revoked", key)
        console.print(f"The key [bold]{key.key_id}[/] of {escape(key.name)} is revoked.")


@keys_commands.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="Id of the old key.", show_default=False)],
    overlap: Annotated[
        str | None, typer.Option(help=f"How long the old one still holds, {_DURATION}. Default: not at all.")
    ] = None,
) -> None:
    """Make a key with the name, scopes and limits of another one, which ends.

    towncast keys rotate 0123456789ab --overlap 24h
    """
    with _opened() as (store, console):
        overlap_s = 0 if overlap is None else _seconds(overlap, "overlap")
        key, text = store.rotate(key_id, overlap_s=overlap_s)
        _audit("key_rotated", key, old_key_id=key_id, overlap_s=overlap_s)
        _show(console, key, text)


@contextlib.contextmanager
def _opened() -> Iterator[tuple[KeyStore, Console]]:
    """The store of the settings and a console, with the audit log open."""
    from rich.console import Console

    from serving.security.audit import AuditLog
    from serving.security.keys import KeyStore
    from serving.security.settings import SecuritySettings

    settings = SecuritySettings()
    store = KeyStore(settings.keys_address)
    with AuditLog(settings.audit_file):
        try:
            yield store, Console()
        finally:
            store.close()


def _audit(event: str, key: ApiKey, **fields: object) -> None:
    import getpass

    from serving.security.audit import audit

    audit(event, by=getpass.getuser(), key_id=key.key_id, name=key.name, **fields)


def _show(console: Console, key: ApiKey, text: str) -> None:
    from rich.markup import escape

    console.print(f"The key of {escape(key.name)}, which is shown this once and kept nowhere:")
    # Not by the console, which would break a long line.
    typer.echo(text)


def _seconds(text: str, option: str) -> int:
    """A duration [s].

    Raises:
        InvalidParameterError: It is none.
    """
    import re

    from features.errors import InvalidParameterError

    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if found is None:
        raise InvalidParameterError(
            parameter=f"--{option}",
            provided=text,
            allowed=f"a number and m, h, d or w, {_DURATION}",
            fact="This is no duration",
            remedy=f"Write it {_DURATION}.",
        )
    return int(found[1]) * _UNITS_S[found[2]]
