"""`towncast domains`: what can be forecast, and the quantities that each domain reads."""

from __future__ import annotations


def domains() -> None:
    """List the domains and their quantities with units, for `towncast ingest --map`."""
    from rich.console import Console
    from rich.table import Table

    from features.domains import DOMAINS

    table = Table(title="Domains and their quantities", title_justify="left")
    for column in ("domain", "one site is a", "quantity", "unit", "what it is", "model"):
        table.add_column(column)
    for domain in DOMAINS.values():
        model = ", ".join(domain.families) or "not yet"
        for number, quantity in enumerate(domain.quantities):
            first = number == 0
            table.add_row(
                domain.name if first else "",
                domain.entity if first else "",
                f"[bold]{quantity.name}[/]" if quantity in domain.targets else quantity.name,
                quantity.unit,
                quantity.description,
                model if first else "",
                end_section=number == len(domain.quantities) - 1,
            )
    console = Console()
    console.print(table)
    console.print(
        "[bold]bold[/]: what is forecast; the others help. `--map QUANTITY=COLUMN:UNIT` takes any unit that converts."
    )
