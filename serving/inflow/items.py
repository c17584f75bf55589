"""One reading as a sender writes it -> a row, or the reason why it is none. Every item is judged by itself."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from features.domains import DOMAINS
from features.errors import UnitError
from features.units import convert

FIELDS = ("domain", "site", "quantity", "timestamp", "valid_at", "available_at", "value", "unit", "source")
RAW_CHARACTERS = 2000
SITE_CHARACTERS = 200
_NAME_CHARACTERS = 64
_STAMP_CHARACTERS = 40
_FEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROLLOUT = re.compile(r"sim:[A-Za-z0-9._-]{1,64}:[A-Za-z0-9._-]{1,64}@[A-Za-z0-9]{1,64}")
# Units over and times each other, with powers of 1 to 3: what is evaluated as an expression could take for ever.
_UNIT = re.compile(r"[A-Za-zµμ°%]{1,16}(\*\*|\^)?[123]?( ?[*/·] ?[A-Za-zµμ°%]{1,16}(\*\*|\^)?[123]?){0,3}")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A reading, its bounds and its site not yet checked.

    Attributes:
        domain: Name of a domain that there is.
        site: Name of a site.
        quantity: Name of a quantity of the domain.
        valid_at: When it was true.
        available_at: When it could have been known, None where the sender does not say: then when it came in.
        value: In the quantity's canonical unit; may be infinite or no number.
        source: `sensor:<feed>`, or a rollout's.
    """

    domain: str
    site: str
    quantity: str
    valid_at: datetime
    available_at: datetime | None
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is no reading.

    Attributes:
        reason: Why.
        domain: Name of its domain, empty where it names none that there is.
        site: What it calls its site, empty where that is no name.
        quantity: What it calls its quantity, likewise.
    """

    reason: str
    domain: str = ""
    site: str = ""
    quantity: str = ""


class _ReasonError(Exception):
    """Why an item is no reading."""


def read_item(item: Any, *, feed: str, given: Mapping[str, str] | None = None) -> Row | Refused:
    """An item as a row.

    Args:
        item: Parsed JSON: an object with the fields in `FIELDS`.
        feed: The source where it names none.
        given: Fields that the transport says: the item may leave them out, but not say otherwise.
    """
    fields = {**(given or {}), **item} if isinstance(item, dict) else dict(given or {})
    domain = fields.get("domain")
    domain = domain if isinstance(domain, str) and domain in DOMAINS else ""
    try:
        if not isinstance(item, dict):
            raise _ReasonError("not an object")
        return _row(fields, given or {}, feed=feed)
    except _ReasonError as error:
        site, quantity = (_shown(fields.get(name)) for name in ("site", "quantity"))
        return Refused(reason=str(error), domain=domain, site=site, quantity=quantity)


def _row(fields: dict[str, Any], given: Mapping[str, str], *, feed: str) -> Row:
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise _ReasonError(f"unknown field {_shown(unknown[0])!r}")
    for name, value in given.items():
        if fields[name] != value:
            raise _ReasonError(f"{name} differs from the topic's")
    domain = _text(fields, "domain", _NAME_CHARACTERS)
    if domain not in DOMAINS:
        raise _ReasonError("unknown domain")
    known = {quantity.name: quantity for quantity in DOMAINS[domain].quantities}
    quantity = _text(fields, "quantity", _NAME_CHARACTERS)
    if quantity not in known:
        raise _ReasonError("unknown quantity")
    if "timestamp" in fields and "valid_at" in fields:
        raise _ReasonError("timestamp and valid_at are both given")
    stamp = "timestamp" if "timestamp" in fields else "valid_at"
    return Row(
        domain=domain,
        site=_text(fields, "site", SITE_CHARACTERS),
        quantity=quantity,
        valid_at=_moment(fields, stamp),
        available_at=_moment(fields, "available_at") if fields.get("available_at") is not None else None,
        value=_value(fields, known[quantity].unit),
        source=_source(fields, feed),
    )


def _text(fields: dict[str, Any], name: str, longest: int) -> str:
    value = fields.get(name)
    if value is None:
        raise _ReasonError(f"{name} is missing")
    # Printable leaves out control characters, line breaks and halves of surrogate pairs.
    if not isinstance(value, str) or not value.strip() or value != value.strip() or not value.isprintable():
        raise _ReasonError(f"{name} is no name")
    if len(value) > longest:
        raise _ReasonError(f"{name} is longer than {longest} characters")
    return value


def _moment(fields: dict[str, Any], name: str) -> datetime:
    value = fields.get(name)
    if value is None:
        raise _ReasonError("timestamp is missing")
    if not isinstance(value, str) or not value.isascii() or len(value) > _STAMP_CHARACTERS:
        raise _ReasonError(f"{name} is no ISO 8601 time stamp")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise _ReasonError(f"{name} has no time zone")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _ReasonError(f"{name} is no ISO 8601 time stamp") from None
    if moment < _EARLIEST:
        raise _ReasonError(f"{name} is before 1970")
    return moment


def _value(fields: dict[str, Any], unit: str) -> float:
    value, given = fields.get("value"), fields.get("unit")
    if value is None:
        raise _ReasonError("value is missing")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _ReasonError("not a number")
    try:
        number = float(value)
    except OverflowError:
        raise _ReasonError("not a number") from None
    if given is None or given == unit:
        return number
    if not isinstance(given, str) or not _UNIT.fullmatch(given):
        raise _ReasonError("unknown unit")
    scale, offset = _conversion(given, unit)
    return number * scale + offset


@functools.lru_cache(maxsize=256)
def _conversion(unit: str, to: str) -> tuple[float, float]:
    """Factor and summand from a unit to another: all conversions between them are of this kind."""
    try:
        offset, there = convert([0.0, 1.0], unit=unit, to=to).tolist()
    except UnitError:
        raise _ReasonError(f"unit does not convert to {to}") from None
    # A difference of 1 that is lost in the summand's last digits is 1.
    scale = there - offset
    return (1.0 if abs(scale - 1.0) < 1e-9 else scale), offset


def _source(fields: dict[str, Any], feed: str) -> str:
    value = fields.get("source")
    if value is None:
        return f"sensor:{feed}"
    if isinstance(value, str) and _ROLLOUT.fullmatch(value):
        return value
    name = value.removeprefix("sensor:") if isinstance(value, str) else ""
    if not _FEED.fullmatch(name):
        raise _ReasonError("source is no name of a feed")
    return f"sensor:{name}"


def _shown(value: Any) -> str:
    """A name as the quarantine keeps it: empty where it is none."""
    return value[:SITE_CHARACTERS] if isinstance(value, str) and value.isprintable() else ""


def raw_text(item: Any) -> str:
    """An item as the quarantine keeps it: its beginning, as JSON."""
    if isinstance(item, bytes):
        return item[:RAW_CHARACTERS].decode("utf-8", "replace")
    try:
        text = json.dumps(item, ensure_ascii=True, default=repr)
    except (ValueError, RecursionError):
        text = type(item).__name__
    return text[:RAW_CHARACTERS]
