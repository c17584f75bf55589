"""The model card: what a model is for, on what it was trained, how well it does, and where not to trust it.

The layout follows Mitchell et al. 2019, Model Cards for Model Reporting, doi:10.1145/3287560.3287596.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from features.files import whole_file
from training.breakdown import large_enough, rows_by
from training.claims import CLAIMS, beside_claims
from training.report import Evaluation, environment

_TEMPLATE = "model_card.md.jinja"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where readings of a feed come from.

    Attributes:
        title: What people call them.
        origin: Where to fetch them, and whom to name.
        licence: Under which they may be used.
    """

    title: str
    origin: str
    licence: str


# By the readings' `source`. A feed that is not here belongs to whoever runs the installation.
KNOWN_SOURCES: dict[str, DataSource] = {
    "sensor:mndot-atr-301": DataSource(
        title="Metro Interstate Traffic Volume",
        origin="UCI Machine Learning Repository 492, doi:10.24432/C5X60B (Minnesota Department of Transportation, "
        "station ATR 301; weather of OpenWeatherMap)",
        licence="CC BY 4.0",
    ),
    "sensor:beijing-memc": DataSource(
        title="Beijing Multi-Site Air Quality",
        origin="UCI Machine Learning Repository 501, doi:10.24432/C5RK5G (Beijing Municipal Environmental Monitoring "
        "Center; weather of the China Meteorological Administration)",
        licence="CC BY 4.0",
    ),
    "sensor:bwdf": DataSource(
        title="Battle of Water Demand Forecasting",
        origin="Alvisi et al. 2025, doi:10.1061/JWRMD5.WRENG-6887",
        licence="CC BY 4.0",
    ),
    "sensor:capital-bikeshare": DataSource(
        title="Bike Sharing",
        origin="UCI Machine Learning Repository 275, doi:10.24432/C5W894 (Capital Bikeshare, Washington D.C.)",
        licence="CC BY 4.0",
    ),
    "sensor:cpcb-delhi-daily": DataSource(
        title="Air quality of Delhi, daily means",
        origin="Central Pollution Control Board of India, compiled on Kaggle",
        licence="CC0, as quoted by the compilation",
    ),
}

# What a forecast is for, and where it does harm, by domain: what no figure says.
_USES: dict[str, tuple[str, str]] = {
    "traffic": (
        "Planning of signals, staff and roadworks hours ahead, and information for travellers.",
        "Anything that concerns a single vehicle or driver; enforcement; closing a road on the forecast alone.",
    ),
    "demand": (
        "Placing vehicles and staff hours ahead, and information for travellers.",
        "Withholding a service from an area because few trips are forecast there: few trips may be what poor service "
        "looks like in the data.",
    ),
    "pollution": (
        "Warnings and measures that are cheap when they prove needless, a day or two ahead.",
        "Medical decisions; proof that a limit was kept or broken, which is for measurements.",
    ),
    "water": (
        "Planning of pumping and storage for the days ahead, and noticing what differs from the usual.",
        "Closing a supply, or billing; finding leaks by itself: a forecast learns a steady leak as demand.",
    ),
}
_ANY_USE = ("Planning in the domain that it was trained for.", "Decisions about single persons.")


def write_model_card(evaluation: Evaluation, folder: Path, *, sources: Sequence[str]) -> Path:
    """Write a model's card into `folder`: `traffic.md`, or `pollution_pm10.md` in a domain of several targets.

    Args:
        evaluation: Of the model.
        folder: Where model cards are.
        sources: `source` of the readings that it was trained on.

    Raises:
        StorageError: The folder cannot be written.
    """
    domain, target = evaluation.judgement.windows.panel.domain, evaluation.card.target
    path = folder / f"{domain.name if len(domain.targets) == 1 else f'{domain.name}_{target}'}.md"
    with whole_file(path) as temporary:
        temporary.write_text(render_model_card(evaluation, sources=sources), encoding="utf-8")
    return path


def render_model_card(evaluation: Evaluation, *, sources: Sequence[str]) -> str:
    """The model card as Markdown."""
    judgement, card = evaluation.judgement, evaluation.card
    domain = judgement.windows.panel.domain
    use, misuse = _USES.get(domain.name, _ANY_USE)
    top = []
    if evaluation.attribution is not None:
        mean_F = evaluation.attribution.importance_NF().mean(axis=0)
        top = [evaluation.attribution.features[index] for index in (-mean_F).argsort(kind="stable")[:5]]
    months = large_enough(rows_by(evaluation.table, "month"))
    hours = rows_by(evaluation.table, "hour")
    text: str = (
        environment(html=False)
        .get_template(_TEMPLATE)
        .render(
            evaluation=evaluation,
            card=card,
            domain=domain,
            target=judgement.windows.target,
            horizons={name: judgement.by_horizon[name] for name in (*domain.horizons, "mean")},
            sources=[(source, KNOWN_SOURCES.get(source)) for source in sources],
            generated=card.trained.get("readings") == "generated",
            use=use,
            misuse=misuse,
            looks_at=top,
            least_covered_month=(months["coverage_90"].idxmin(), float(months["coverage_90"].min())),
            hardest_hour=(hours["mae"].idxmax(), float(hours["mae"].max())),
            sites_judged=len(judgement.by_site),
            span=judgement.windows.span(),
            unforeseen=evaluation.unforeseen,
            horizon_h=domain.horizon_steps * domain.step_s // 3600,
            claim=CLAIMS.get(card.target),
            beside=beside_claims(judgement, card.unit),
            worst_site=rows_by(evaluation.table, "site").loc[evaluation.worst_site],
        )
    )
    return text
