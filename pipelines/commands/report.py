"""The command `towncast report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from features.vocabulary import Quantity
    from pipelines.report import Reported
    from training.costs import CostOfError


def report(
    domain: Annotated[str, typer.Argument(help="Whose model; see `towncast domains`.")] = "traffic",
    data: Annotated[
        Path | None, typer.Option(help="Folder or file of a published data set. Default: the readings in the store.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Which quantity's model. Default: the domain's first.")] = None,
    version: Annotated[str, typer.Option(help="Number of the version, or champion, or candidate.")] = "champion",
    output: Annotated[
        Path | None, typer.Option(help="The HTML file. Default: var/reports/<model>-v<version>.html.")
    ] = None,
    cost_under: Annotated[
        float | None, typer.Option(min=0, help="Cost of a unit that came unforeseen, for each hour. Default: assumed.")
    ] = None,
    cost_over: Annotated[
        float | None, typer.Option(min=0, help="Cost of a unit that was forecast and did not come. Default: assumed.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Of both costs: EUR, INR. Default: assumed.")] = None,
    model_card: Annotated[
        Path | None, typer.Option(help="Folder in which the model card is written: docs/model_cards.")
    ] = None,
) -> None:
    """Write the evaluation report of a registered model: one HTML file that needs no network.

    The version's own ONNX graph is judged on the readings after its training: by horizon, site, hour and month, with
    skill over the naive profile, intervals, fairness, what its errors cost, residuals and what it looks at. Each
    training leaves the same report in MLflow, under `report/`.

    Example: towncast report traffic --data ../shared/data --cost-under 4 --cost-over 1 --currency EUR
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from features.domains import DOMAINS
    from pipelines.report import report_model
    from pipelines.settings import Settings

    problem = DOMAINS[domain]
    quantity = problem.quantity(target) if target else problem.target
    console = Console()
    made = report_model(
        domain,
        settings=Settings(),
        console=console,
        data=data,
        target=target,
        version=version,
        output=output,
        cost=_cost(quantity, cost_under, cost_over, currency),
        model_cards=model_card,
    )
    _say(made, console)


def _say(made: Reported, console: Console) -> None:
    if made.remark:
        console.print(f"[yellow]{made.remark}[/]")
    figures = made.evaluation
    low, high = figures.skill_90["mean"]
    mean = figures.judgement.by_horizon["mean"]
    console.print(
        f"{made.registered.name} version {made.registered.version}: skill {mean['skill']:+.1%} "
        f"(90 % interval {low:+.1%} to {high:+.1%}), MASE {mean['mase']:.3g}, worst site {figures.worst_site}"
    )
    business = figures.business
    console.print(
        f"an hour's errors cost {business.median:.4g} {business.cost.currency}, the naive profile's "
        f"{business.naive:.4g} ({business.cost.because})"
    )
    for line in (*figures.fairness.flags, *figures.fairness.remarks):
        console.print(f"fairness: {line}")
    console.print(f"report: [bold]{made.report}[/]", soft_wrap=True)
    if made.model_card is not None:
        console.print(f"model card: [bold]{made.model_card}[/]", soft_wrap=True)


def _cost(target: Quantity, under: float | None, over: float | None, currency: str | None) -> CostOfError | None:
    """The prices that were given, the assumed ones in place of those that were not; None where none was."""
    from features.errors import InvalidParameterError
    from training.costs import CostOfError, assumed_cost

    if under is None and over is None and currency is None:
        return None
    assumed = assumed_cost(target)
    prices = (assumed.under_per_unit if under is None else under, assumed.over_per_unit if over is None else over)
    if sum(prices) == 0:
        raise InvalidParameterError(
            parameter="cost-under",
            provided=0,
            allowed="0 or more, and one of the two above 0",
            fact="If no error costs anything, there is nothing to compare",
            remedy="Give one of --cost-under and --cost-over a price.",
        )
    given = "given" if under is not None and over is not None else f"in part given, else {assumed.because}"
    return CostOfError(
        under_per_unit=prices[0], over_per_unit=prices[1], currency=currency or assumed.currency, because=given
    )
