"""The command `towncast report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from features.vocabulary import Quantity
    from pipelines.report import CostOf, Reported


def report(
    domain: Annotated[
        str, typer.Argument(help="Whose models; see `towncast domains`. all: of every domain that has one.")
    ] = "traffic",
    data: Annotated[
        Path | None, typer.Option(help="Folder or file of a published data set. Default: the readings in the store.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Which quantity's model. Default: each that has one.")] = None,
    version: Annotated[str, typer.Option(help="Number of the version, or champion, or candidate.")] = "champion",
    output: Annotated[
        Path | None, typer.Option(help="The HTML file. Default: one for each model in var/reports.")
    ] = None,
    cost_under: Annotated[
        float | None, typer.Option(min=0, help="Cost of a unit that came unforeseen, for each hour. Default: assumed.")
    ] = None,
    cost_over: Annotated[
        float | None, typer.Option(min=0, help="Cost of a unit that was forecast and did not come. Default: assumed.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Of both costs: EUR, INR. Default: assumed.")] = None,
    model_card: Annotated[
        Path | None, typer.Option(help="Folder in which the model card is written too, such as docs/model_cards.")
    ] = None,
) -> None:
    """Write the evaluation report of a model: one HTML file, without scripts.

    Its ONNX graph is judged on the readings after its training: by horizon,
    site, hour and month, skill over the naive profile, intervals, fairness,
    what its errors cost, residuals, and what it looks at. Each training leaves
    the same report in MLflow, under report/.

    Example: towncast report traffic --cost-under 4 --cost-over 1 --currency EUR

    Example: towncast report all --model-card docs/model_cards
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.report import report_models
    from pipelines.settings import Settings

    console = Console()
    made = report_models(
        domain,
        settings=Settings(),
        console=console,
        data=data,
        target=target,
        version=version,
        output=output,
        cost_of=_prices(domain, cost_under, cost_over, currency),
        model_cards=model_card,
    )
    for reported in made:
        _say(reported, console)


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


def _prices(domain: str, under: float | None, over: float | None, currency: str | None) -> CostOf:
    """The prices that were given, the assumed ones in place of those that were not."""
    from features.errors import InvalidParameterError
    from pipelines.report import EVERY
    from training.costs import CostOfError, assumed_cost

    if under is None and over is None and currency is None:
        return assumed_cost
    if domain == EVERY:
        raise InvalidParameterError(
            parameter="domain",
            provided=domain,
            allowed="one domain, where prices are given",
            fact="A price is that of a unit, and domains have different units",
            remedy="Name one domain with its prices.",
        )

    def cost_of(target: Quantity) -> CostOfError:
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
        because = "given" if None not in (under, over) else f"in part given, else {assumed.because}"
        return CostOfError(
            under_per_unit=prices[0], over_per_unit=prices[1], currency=currency or assumed.currency, because=because
        )

    return cost_of
