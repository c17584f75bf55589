"""`towncast materialise`: bring the online store up to date with the readings."""

from __future__ import annotations

from typing import Annotated

import typer


def materialise(domain: Annotated[str, typer.Argument(help="Whose readings.")] = "traffic") -> None:
    """Bring the online store up to what is known now, so that serving sees newly ingested readings."""
    import pandas as pd
    from rich.console import Console

    from features.domains import DOMAINS
    from features.feast_repository import open_repository
    from pipelines.quiet import quiet_libraries
    from pipelines.settings import Settings

    quiet_libraries()
    settings = Settings()
    repository = open_repository(settings, DOMAINS[domain])
    repository.apply()
    sites = repository.materialise(as_of=pd.Timestamp.now("UTC"))
    Console().print(f"[green]✓[/] the online store holds the last history of {sites} sites")
