"""The command `towncast ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from features.sources.parsed import Parsed
    from features.vocabulary import Domain


def ingest(
    domain: Annotated[str, typer.Argument(help="What the readings are for: traffic, demand, pollution or water.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="CSV, gzip CSV, Parquet or Excel files of one shape; or the folder of a published data set.",
            show_default=False,
        ),
    ],
    timestamp: Annotated[
        str | None, typer.Option(help="Column of the moment a row is true for: the end of its interval.")
    ] = None,
    timestamp_format: Annotated[
        str | None, typer.Option(help="Its pattern if not ISO 8601: '%d/%m/%Y %H:%M', epoch_s or epoch_ms.")
    ] = None,
    stamp_begins: Annotated[
        str | None, typer.Option(help="If a stamp marks the beginning of an interval: how long that is, such as 1h.")
    ] = None,
    tz: Annotated[
        str | None, typer.Option(help="Clock of stamps without an offset, as IANA name: US/Central, Asia/Kolkata.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Name of the one site that the files are about.")] = None,
    site_column: Annotated[str | None, typer.Option(help="Column with the site's name, if there are several.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="QUANTITY[@SITE]=COLUMN:UNIT",
            help="What a column measures, and in which unit; repeat it for each. Without a unit: the canonical one. "
            "Where each site has a column of its own, name the site too: inflow@North='DMA A':L/s.",
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option(help="TOML file with these options. Default: <data file>.toml beside the data. Options win."),
    ] = None,
    available_column: Annotated[
        str | None, typer.Option(help="Column of the moment a row became known. It keeps forecasts honest.")
    ] = None,
    available_after: Annotated[str | None, typer.Option(help="Or how long after its moment: 15min.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Decimal mark in text: '.' or ','.")] = None,
    source: Annotated[str | None, typer.Option(help="Name of the feed. Default: the file's name.")] = None,
    latitude: Annotated[float | None, typer.Option(help="Of the site, degrees north.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Of the site, degrees east.")] = None,
    country: Annotated[str | None, typer.Option(help="ISO 3166 code for the holidays: US, IN, IT.")] = None,
    subdivision: Annotated[str | None, typer.Option(help="State or province, for its holidays: MN, GJ.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A fixed number about the site: lanes=3.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be read, and store nothing.")] = False,
) -> None:
    """Read files of measurements into the reading store.

    Units are converted, local clocks become UTC, and what cannot be right goes to a quarantine with its reason: nothing
    is dropped silently. Reading the same file twice changes nothing.

    An hourly CSV of one road with the columns date_time, traffic_volume and temp (in kelvin):

        towncast ingest traffic counts.csv --site R7 --timestamp date_time --tz US/Central
        --map volume=traffic_volume:veh/h --map temperature=temp:K --preview

    The same as a file counts.toml beside it, after which `towncast ingest traffic counts.csv` is enough:

        timestamp = "date_time"

        tz = "US/Central"

        site = "R7"

        quantities = { volume = "traffic_volume:veh/h", temperature = "temp:K" }
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    import pandas as pd
    from rich.console import Console

    from features.domains import DOMAINS
    from features.feast_repository import open_repository
    from pipelines.ingest import check_parsed, ingest_parsed, render_preview, render_summary
    from pipelines.settings import Settings

    chosen = DOMAINS[domain]
    options: dict[str, Any] = {
        "timestamp": timestamp,
        "timestamp_format": timestamp_format,
        "stamp_begins": stamp_begins,
        "tz": tz,
        "site": site,
        "site_column": site_column,
        "available_column": available_column,
        "available_after": available_after,
        "decimal": decimal,
        "source": source,
        "latitude": latitude,
        "longitude": longitude,
        "country": country,
        "subdivision": subdivision,
        "attributes": _attributes(attribute) if attribute else None,
    }
    parsed = _parse(chosen, files, columns or [], mapping, options)
    checked = check_parsed(parsed, chosen)
    console = Console()
    console.print(render_preview(parsed, checked, chosen, rows=8 if preview else 4))
    if preview:
        for note in parsed.notes:
            console.print(f"Note: {note}", markup=False)
        console.print("This was a preview: nothing is stored. Run it again without --preview to store it.")
        return
    settings = Settings()
    summary = ingest_parsed(parsed, chosen, root=settings.readings_dir, checked=checked)
    console.print(render_summary(summary))
    repository = open_repository(settings, chosen)
    if summary.stored and repository.exists():
        with console.status("Pushing to the online store"):
            repository.push(list(summary.sites), as_of=pd.Timestamp.now("UTC"))
        console.print("Pushed to the online store: a running API sees them within seconds.")


def _parse(
    domain: Domain, files: list[Path], columns: list[str], mapping: Path | None, options: dict[str, Any]
) -> Parsed:
    """What the files hold: a published data set if one is named and nothing is mapped, else as the mapping says."""
    from features.sources import find_published, is_published
    from features.sources.tabular import make_mapping, mapping_beside, parse_map, read_tabular

    beside = mapping or mapping_beside(files[0])
    mapped = bool(columns or beside) or any(value is not None for value in options.values())
    if len(files) == 1 and not mapped and (files[0].is_dir() or is_published(files[0], domain)):
        return find_published(domain, files[0]).read(files[0])
    given = tuple(parse_map(text, domain) for text in columns)
    return read_tabular(files, make_mapping(domain, file=beside, quantities=given, **options), domain)


def _attributes(texts: list[str]) -> dict[str, float]:
    from features.errors import InvalidParameterError

    attributes = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            attributes[name.strip()] = float(number)
        except ValueError:
            raise InvalidParameterError(
                parameter="attribute",
                provided=text,
                allowed="NAME=NUMBER",
                fact="An attribute is no number",
                remedy="Write NAME=NUMBER, such as lanes=3.",
            ) from None
    return attributes
