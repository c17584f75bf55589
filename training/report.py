"""The evaluation report of a model: all figures and pictures of a judgement, as one HTML file, complete in itself."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from features.card import Card
from features.files import whole_file
from training.breakdown import ALL, breakdown, large_enough, rows_by, worst_site
from training.claims import CLAIMS, beside_claims
from training.costs import BusinessFigure, CostOfError, assumed_cost, business_figure
from training.evaluate import Metrics, site_scales, skill_interval
from training.explain import Attribution
from training.fairness import Fairness, FairnessLimits, check_fairness
from training.gate import Verdict
from training.report_plots import (
    plot_attribution,
    plot_coverage_map,
    plot_errors_by_group,
    plot_reliability,
    plot_residual_pattern,
    plot_residuals,
    readable,
)
from training.train import Judgement, forecast_figures, lead_figure

REPORT_FILE = "report.html"
_TEMPLATE = "report.html.jinja"
# Measured series of very many sites would fill pages: the table shows the worst, the CSV file all.
_SITES_SHOWN = 30
# Windows that are looked into for forecasts of the weather.
_SAMPLE = 50
_UNDEFINED = "n/a"
# A line must not break between a figure and its sign.
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that a report and a model card say of a model.

    Attributes:
        judgement: Its forecasts and figures.
        card: What it is.
        table: Its figures by group, see `training.breakdown`.
        skill_90: 90 % interval of the skill at each horizon and of `mean`.
        business: What its errors cost.
        fairness: Across sites and zones.
        attribution: What it looks at, None where that was not worked out.
        verdict: What the gate says, None where it was not asked.
    """

    judgement: Judgement
    card: Card
    table: pd.DataFrame
    skill_90: dict[str, tuple[float, float]]
    business: BusinessFigure
    fairness: Fairness
    attribution: Attribution | None = None
    verdict: Verdict | None = None

    @property
    def worst_site(self) -> str:
        """Name of the site with the largest scaled error."""
        return worst_site(self.table)

    @property
    def unforeseen(self) -> tuple[str, ...]:
        """Covariates that the model takes forecasts of, and of which there was none in what it was judged on."""
        windows = self.judgement.windows
        sample = windows.windows(np.linspace(0, len(windows) - 1, min(len(windows), _SAMPLE)).astype(int))
        channels = windows.panel.domain.future_channels
        return tuple(
            name
            for name in windows.panel.domain.known_ahead
            if np.isnan(sample.future_BHK[:, :, channels.index(name)]).all()
        )

    def figures(self) -> dict[str, Metrics]:
        """What a run keeps of it besides the horizons' figures, by group and name."""
        fairness: Metrics = {"flags": float(len(self.fairness.flags))}
        for part in (self.fairness.sites, self.fairness.zones):
            if part is not None:
                fairness |= {
                    f"{part.among}_error_ratio": part.error_ratio,
                    f"{part.among}_coverage_gap": part.coverage_gap,
                }
        cost = {"median": self.business.median, "naive": self.business.naive, "best_quantile": self.business.best}
        return {"cost_per_hour": cost, "fairness": fairness}


def evaluate_model(
    judgement: Judgement,
    card: Card,
    *,
    cost: CostOfError | None = None,
    limits: FairnessLimits | None = None,
    attribution: Attribution | None = None,
    verdict: Verdict | None = None,
) -> Evaluation:
    """Work out everything that a report says.

    Args:
        judgement: Of the model.
        card: Of the model.
        cost: Prices of errors, by default the assumed ones of its target.
        limits: Of the fairness check.
        attribution: What the model looks at.
        verdict: What the gate says.
    """
    return Evaluation(
        judgement=judgement,
        card=card,
        table=breakdown(judgement),
        skill_90=_skill_intervals(judgement),
        business=business_figure(judgement, cost or assumed_cost(judgement.windows.target)),
        fairness=check_fairness(judgement, rng=np.random.default_rng(0), limits=limits),
        attribution=attribution,
        verdict=verdict,
    )


def _skill_intervals(judgement: Judgement) -> dict[str, tuple[float, float]]:
    windows = judgement.windows
    order = np.argsort(windows.origin_B, kind="stable")
    block = windows.panel.domain.season_steps * max(len(judgement.by_site), 1)
    median = judgement.quantiles_BHQ[:, :, judgement.levels.index(0.5)]
    found = {}
    for name, steps in windows.panel.domain.horizons.items():
        target = judgement.target_BH[order, steps - 1]
        error, naive_error = target - median[order, steps - 1], target - judgement.naive_BH[order, steps - 1]
        if np.isfinite(error).any():
            found[name] = skill_interval(error, naive_error, block=block, rng=np.random.default_rng(0))
    return {**found, "mean": judgement.skill_90}


def write_report(evaluation: Evaluation, path: Path) -> Path:
    """Write the report, and beside it the table behind it as CSV.

    Args:
        evaluation: What it says.
        path: Of the HTML file.

    Returns:
        Path of the HTML file.

    Raises:
        StorageError: The folder cannot be written.
    """
    with whole_file(path.with_suffix(".csv")) as temporary:
        evaluation.table.to_csv(temporary, index=False, float_format="%.6g")
    with whole_file(path) as temporary:
        temporary.write_text(render_report(evaluation), encoding="utf-8")
    return path


def render_report(evaluation: Evaluation) -> str:
    """The report as HTML, its pictures inside."""
    text: str = environment(html=True).get_template(_TEMPLATE).render(**_content(evaluation))
    return text


def environment(*, html: bool) -> jinja2.Environment:
    """Templates of this package, with the number formats of reports; an unknown name in a template is an error.

    Args:
        html: Whether values are escaped.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "number": number,
        "percent": percent,
        "signed": signed,
        "fraction": fraction,
        "readable": readable,
    }
    return templates


def _content(evaluation: Evaluation) -> dict[str, Any]:
    """What the template reads."""
    judgement, card, table = evaluation.judgement, evaluation.card, evaluation.table
    windows = judgement.windows
    sites = rows_by(table, "site").sort_values("mase", ascending=False)
    scales = dict(zip((site.name for site in windows.panel.sites), site_scales(windows), strict=True))
    many = len(sites) > 1
    pictures = {
        "lead": picture(lead_figure(judgement)),
        "residuals": picture(plot_residuals(judgement)),
        "pattern": picture(plot_residual_pattern(judgement)),
        "reliability": picture(plot_reliability(judgement, table)),
        "groups": picture(plot_errors_by_group(table, unit=card.unit)),
        "coverage_map": picture(plot_coverage_map(table)) if many else "",
        "attribution": "" if evaluation.attribution is None else picture(plot_attribution(evaluation.attribution)),
    }
    worst_cells = large_enough(rows_by(table, "site and month")).sort_values("coverage_90")
    return {
        "evaluation": evaluation,
        "card": card,
        "judgement": judgement,
        "horizons": {name: judgement.by_horizon[name] for name in (*windows.panel.domain.horizons, "mean")},
        "overall": rows_by(table, ALL).loc[ALL],
        "sites": list(sites.head(_SITES_SHOWN).iterrows()),
        "sites_left_out": max(0, len(sites) - _SITES_SHOWN),
        "scales": scales,
        "hours": list(rows_by(table, "hour").iterrows()),
        "months": list(rows_by(table, "month").iterrows()),
        "least_covered": (worst_cells.index[0], worst_cells.iloc[0]),
        "pictures": pictures,
        "forecasts": [picture(figure) for figure in forecast_figures(judgement)],
        "claim": CLAIMS.get(card.target),
        "unforeseen": evaluation.unforeseen,
        "beside": beside_claims(judgement, card.unit),
        "generated": card.trained.get("readings") == "generated",
    }


def picture(figure: Figure) -> str:
    """A figure as the address of an inlined PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def number(value: float) -> str:
    """Three significant digits, whole above a hundred; `n/a` for what is not defined."""
    if not math.isfinite(value):
        return _UNDEFINED
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 6)}f}"


def fraction(value: float) -> str:
    """Three decimals, for what is at most 1, such as an R2; `n/a` for what is not defined."""
    return f"{value:.3f}" if math.isfinite(value) else _UNDEFINED


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage; `n/a` for what is not defined."""
    return f"{100 * value:.{digits}f}{_PERCENT}" if math.isfinite(value) else _UNDEFINED


def signed(value: float, digits: int = 1) -> str:
    """A share as a percentage with its sign; `n/a` for what is not defined."""
    return f"{100 * value:+.{digits}f}{_PERCENT}" if math.isfinite(value) else _UNDEFINED
