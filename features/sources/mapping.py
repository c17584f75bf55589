"""How the columns of a user's own file become quantities: given by options, or by a small TOML file beside the data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from features.errors import DataError, InvalidParameterError
from features.registry import nearest_names
from features.sources.stamps import RepeatedHour, check_timezone
from features.units import convert
from features.vocabulary import Domain, Site

_FACTS = ("latitude", "longitude", "timezone", "country", "subdivision", "neighbours", "attributes")
_NUMBERS = ("latitude", "longitude")
_TABLES = ("attributes", "sites")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """One column that holds one quantity.

    Attributes:
        quantity: Name of the quantity.
        column: Name of the column.
        unit: Unit of its numbers; "compass" reads points such as NNW as degrees.
        site: Site that the column is about, in a file with a column per site; empty for every site of the file.
        scale: What a number of the column is multiplied by to be in the unit (files that hold scaled numbers).
        offset: What is added then [unit].
    """

    quantity: str
    column: str
    unit: str
    site: str = ""
    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularMapping:
    """Which column of a table means what.

    Attributes:
        timestamp: Column of the moment that a row is true for: the end of its interval. Several columns (a date and an
            hour) are read as one text, with blanks between them.
        timestamp_format: `strptime` pattern, `epoch_s` or `epoch_ms`; empty for ISO 8601.
        stamp_begins: How long an interval a stamp begins, such as "1h"; empty where it marks the interval's end.
        tz: IANA name of the clock for stamps without an offset, and of the sites' clock.
        repeated_hour: What to make of the hour that the clocks run through twice, see `stamps.parse_stamps`.
        site: Name of the one site, or empty.
        site_column: Column with the site's name, or empty. Both are empty where columns name their sites.
        quantities: The measured columns.
        available_column: Column with the moment that a row became known, or empty.
        available_after: How long after its moment a row became known, such as "15min"; empty for at once.
        decimal: Decimal mark of numbers in text, "." or ",".
        source: Name of the feed, or a whole `sensor:<feed>`; empty for the file's own name.
        latitude: Of every site, unless `sites` says otherwise [degrees north].
        longitude: Likewise [degrees east].
        country: Likewise, ISO 3166.
        subdivision: Likewise.
        attributes: Likewise, fixed numbers such as `lanes`.
        sites: Facts of single sites, by name: any of the above, `timezone` and `neighbours`.
    """

    timestamp: str | tuple[str, ...]
    quantities: tuple[ColumnMap, ...]
    timestamp_format: str = ""
    stamp_begins: str = ""
    tz: str = ""
    repeated_hour: RepeatedHour = "in_order"
    site: str = ""
    site_column: str = ""
    available_column: str = ""
    available_after: str = ""
    decimal: str = "."
    source: str = ""
    latitude: float = float("nan")
    longitude: float = float("nan")
    country: str = ""
    subdivision: str = ""
    attributes: Mapping[str, float] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.timestamp:
            raise _unset("timestamp", "No column is named for the time stamp", "--timestamp date_time")
        if not self.quantities:
            raise _unset("map", "No column is mapped to a quantity", "--map volume=traffic_volume:veh/h")
        self._check_sites()
        if self.available_column and self.available_after:
            raise _unset(
                "available_after",
                "The moment of availability is given twice",
                "either --available-column or --available-after",
            )
        for zone in (self.tz, *(facts.get("timezone", "") for facts in self.sites.values())):
            if zone:
                check_timezone(zone)
        for name, value, choices in (
            ("decimal", self.decimal, (".", ",")),
            ("repeated_hour", self.repeated_hour, ("first", "in_order", "reject")),
        ):
            if value not in choices:
                raise InvalidParameterError(
                    parameter=name,
                    provided=value,
                    allowed=choices,
                    fact=f"The mapping's {name} is none of its choices",
                    remedy=f"Use one of {', '.join(map(repr, choices))}.",
                )
        assert min(self.delay, self.interval) >= pd.Timedelta(0)

    def _check_sites(self) -> None:
        ways = [bool(self.site), bool(self.site_column), bool(self.column_sites)]
        if sum(ways) != 1:
            both = "Both a site and a column of sites are given" if all(ways[:2]) else "Sites are named in two ways"
            fact = both if any(ways) else "No site is named"
            raise _unset("site", fact, "either --site R7 (one site) or --site-column road (a name in each row)")
        everywhere = {entry.quantity for entry in self.quantities if not entry.site}
        for entry in self.quantities:
            if entry.site and entry.quantity in everywhere:
                fact = f"{entry.quantity} has both a column for every site and one for {entry.site}"
                raise _unset("map", fact, "one or the other")

    @property
    def delay(self) -> pd.Timedelta:
        """`available_after` as a duration, zero where it is not given.

        Raises:
            InvalidParameterError: It is no duration, or negative.
        """
        return _duration("available_after", self.available_after, "The delay of availability is no duration")

    @property
    def interval(self) -> pd.Timedelta:
        """`stamp_begins` as a duration, zero where it is not given.

        Raises:
            InvalidParameterError: It is no duration, or negative.
        """
        return _duration("stamp_begins", self.stamp_begins, "The interval that a stamp begins is no duration")

    @property
    def column_sites(self) -> tuple[str, ...]:
        """The sites that have columns of their own, in order."""
        return tuple(dict.fromkeys(entry.site for entry in self.quantities if entry.site))

    @property
    def stamp_columns(self) -> tuple[str, ...]:
        """The columns that together hold the time stamp."""
        return (self.timestamp,) if isinstance(self.timestamp, str) else self.timestamp

    @property
    def columns(self) -> list[str]:
        """The columns that the mapping reads, each once."""
        measured = [entry.column for entry in self.quantities]
        named = [*self.stamp_columns, self.site_column, self.available_column, *measured]
        return list(dict.fromkeys(name for name in named if name))

    def make_site(self, name: str) -> Site:
        """The site called `name`, with the facts that the mapping gives."""
        facts: dict[str, Any] = {
            "latitude": self.latitude,
            "longitude": self.longitude,
            "timezone": self.tz or "UTC",
            "country": self.country,
            "subdivision": self.subdivision,
            "attributes": dict(self.attributes),
        }
        facts |= dict(self.sites.get(name, {}))
        facts["attributes"] = {key: float(number) for key, number in facts["attributes"].items()}
        return Site(name=name, **{**facts, "neighbours": tuple(map(str, facts.get("neighbours", ())))})


def _unset(parameter: str, fact: str, example: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter=parameter,
        provided=None,
        allowed=example,
        fact=fact,
        remedy=f"Give {example}, or the same in a mapping file.",
    )


def _duration(parameter: str, text: str, fact: str) -> pd.Timedelta:
    try:
        duration = pd.Timedelta(text or 0)
    except ValueError:
        duration = pd.Timedelta(-1)
    if duration < pd.Timedelta(0):
        raise InvalidParameterError(
            parameter=parameter,
            provided=text,
            allowed="durations of at least zero",
            fact=fact,
            remedy="Write a number and its unit, such as '15min' or '2h'.",
        )
    return duration


def parse_map(text: str, domain: Domain) -> ColumnMap:
    """Read `quantity=column:unit`; without a unit the column holds the quantity's canonical one.

    In a file with a column per site each is mapped by itself: `quantity@site=column:unit`.

    Raises:
        InvalidParameterError: The text is not of that form.
        UnknownNameError: The domain has no such quantity; near ones are named.
        UnitError: The unit is unknown, or does not measure that quantity.
    """
    left, equals, rest = text.partition("=")
    name, _, site = left.partition("@")
    column, colon, unit = rest.rpartition(":")
    if not colon:
        column, unit = rest, ""
    if not (equals and name.strip() and column.strip()):
        raise InvalidParameterError(
            parameter="map",
            provided=text,
            allowed="QUANTITY=COLUMN:UNIT",
            fact="A column is not mapped as it should be",
            remedy=f"Write QUANTITY=COLUMN:UNIT, such as {domain.target.name}=count:{domain.target.unit}.",
        )
    quantity = domain.quantity(name.strip())
    unit = unit.strip() or quantity.unit
    entry = ColumnMap(quantity=quantity.name, column=column.strip(), unit=unit, site=site.strip())
    convert([], unit=entry.unit, to=quantity.unit)
    return entry


def mapping_beside(path: Path) -> Path | None:
    """The file `<stem>.toml` beside a data file, if it is there."""
    if not path.is_file():
        return None
    stem = path.name.removesuffix(".gz")
    candidate = path.with_name(f"{stem.rpartition('.')[0] or stem}.toml")
    return candidate if candidate.is_file() else None


def read_mapping_file(path: Path) -> dict[str, Any]:
    """Options in a TOML file: the attributes of `TabularMapping`, with `[quantities]` as `name = "column:unit"`.

    In a file with a column per site, `[quantities.name]` has a line `site = "column:unit"` for each.

    Raises:
        DataError: The file is missing, no TOML, or has an unknown key or a value of the wrong kind.
    """
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            "The mapping file cannot be read", found=f"{path}: {error}", remedy="Give a readable TOML file."
        ) from error
    kinds = {entry.name: _kind(entry.name) for entry in fields(TabularMapping)}
    _check_keys(path, options, kinds)
    texts = [text for _, text in _map_entries(options.get("quantities", {}))]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(
            "A quantity of the mapping file is not given as text",
            found=str(path),
            remedy='Write volume = "traffic_volume:veh/h" under [quantities].',
        )
    sites: dict[str, dict[str, Any]] = options.get("sites", {})
    _check_keys(path, sites, dict.fromkeys(sites, (dict,)))
    for facts in sites.values():
        _check_keys(path, facts, {name: _kind(name) for name in _FACTS})
    for table in (options, *sites.values()):
        attributes = table.get("attributes", {})
        _check_keys(path, attributes, dict.fromkeys(attributes, (float, int)))
    return options


def _map_entries(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Pairs of `quantity` or `quantity@site`, and what is mapped to it."""
    entries: list[tuple[str, Any]] = []
    for name, entry in table.items():
        by_site = entry.items() if isinstance(entry, dict) else [("", entry)]
        entries.extend((f"{name}@{site}" if site else name, text) for site, text in by_site)
    return entries


def _kind(name: str) -> tuple[type, ...]:
    if name == "timestamp":
        return (str, list)
    if name in _NUMBERS:
        return (float, int)
    if name in _TABLES or name == "quantities":
        return (dict,)
    return (list,) if name == "neighbours" else (str,)


def _check_keys(path: Path, options: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> None:
    for key, value in options.items():
        if key not in kinds:
            near = nearest_names(key, list(kinds)) or list(kinds)
            raise DataError(
                "The mapping file has an unknown key", found=f"{path}: {key}", remedy=f"Known are: {', '.join(near)}."
            )
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            wanted = {float: "a number", dict: "a table", list: "a list", str: "text"}[kinds[key][0]]
            raise DataError(
                f"A value of the mapping file is not {wanted}", found=f"{path}: {key}", remedy=f"Give {wanted}."
            )


def make_mapping(
    domain: Domain,
    *,
    file: Path | None = None,
    quantities: tuple[ColumnMap, ...] = (),
    **given: Any,
) -> TabularMapping:
    """A mapping from a TOML file and from options; an option that is given replaces the file's.

    Args:
        domain: Whose quantities are mapped.
        file: TOML file, see `read_mapping_file`.
        quantities: Columns; each replaces the file's entry for the same quantity.
        **given: Other attributes of `TabularMapping`; None stands for not given.

    Returns:
        The mapping.

    Raises:
        TowncastError: Something is wrong or lacking; the message says what to give.
    """
    options = read_mapping_file(file) if file else {}
    from_file = [parse_map(f"{name}={text}", domain) for name, text in _map_entries(options.pop("quantities", {}))]
    by_name = {(entry.quantity, entry.site): entry for entry in (*from_file, *quantities)}
    if len({(entry.quantity, entry.site) for entry in quantities}) < len(quantities):
        raise InvalidParameterError(
            parameter="map",
            provided=[f"{entry.quantity}={entry.column}" for entry in quantities],
            allowed="each quantity once",
            fact="A quantity is mapped twice",
            remedy="Map each quantity to one column.",
        )
    chosen = {key: value for key, value in given.items() if value is not None}
    for one, other in (("site", "site_column"), ("available_column", "available_after")):
        if one in chosen or other in chosen:
            options.pop(one, None)
            options.pop(other, None)
    stamp = chosen.pop("timestamp", options.pop("timestamp", ""))
    timestamp = stamp if isinstance(stamp, str) else tuple(map(str, stamp))
    return TabularMapping(timestamp=timestamp, quantities=tuple(by_name.values()), **{**options, **chosen})
