"""A town whose water zones have been watched for twelve weeks: one well, one harmed, one without actuals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.store import ReadingStore
from features.vocabulary import Site
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.report import Assessment, DriftLine, ErrorEstimate, MonitoringReport, SiteState, Trigger
from serving.monitoring.report_store import ReportStore

WATER = DOMAINS["water"]
HOUR_S, DAY_S, WEEK_S = 3600, 86400, 7 * 86400
# Monday 2 February 2026, 00:00 in Kolkata.
END_S = int(pd.Timestamp("2026-02-02T00:00:00+05:30").timestamp())
WEEKS = 12
ZONES = [
    Site(name="Z001", timezone="Asia/Kolkata"),
    Site(name="Zone north/east", timezone="Asia/Kolkata"),
    Site(name="Z003", timezone="Asia/Kolkata"),
]


@dataclass(frozen=True)
class Watched:
    """The town's data folder, and its reports, oldest first."""

    data_dir: Path
    reports: list[MonitoringReport]


def realised_rows(site: str, *, off: float, off_in_last_weeks: float) -> pd.DataFrame:
    """Hourly forecasts one step ahead of the value 100, from 11 weeks by v1 and one by v2; all are too high."""
    begin_s = END_S - WEEKS * WEEK_S
    valid_s = np.arange(begin_s, END_S, HOUR_S)
    median = 100.0 + np.where(valid_s < END_S - 2 * WEEK_S, off, off_in_last_weeks)
    return pd.DataFrame(
        {
            "site": site,
            "model_version": np.where(valid_s < END_S - WEEK_S, "water-prophet-v1", "water-prophet-v2"),
            "role": "champion",
            "origin_s": valid_s - HOUR_S,
            "steps": 1,
            "valid_s": valid_s,
            "actual": 100.0,
            "median": median,
            "lower": median - 5.0,
            "upper": median + 5.0,
            "made_s": valid_s - HOUR_S / 2,
            "joined_s": valid_s + HOUR_S,
        }
    )


def assessment_of(site: str, state: SiteState, until_s: int, *, error: float, coverage: float) -> Assessment:
    return Assessment(
        site=site,
        state=state,
        since_s=until_s - WEEK_S,
        until_s=until_s,
        steps=168,
        error=error,
        usual_error=2.0,
        mape_percent=error,
        usual_mape_percent=2.0,
        coverage=coverage,
        nominal_coverage=0.95,
        score=error / 2,
        limit=1.5,
        reason=f"The error is {error:g}.",
    )


def report_of(week: int) -> MonitoringReport:
    """The report at the end of a week, from 1 on; the last two find harm."""
    until_s = END_S - (WEEKS - week) * WEEK_S
    harmed = week > WEEKS - 2
    moment = pd.Timestamp(until_s, unit="s", tz="UTC")
    return MonitoringReport(
        id=f"{moment:%Y%m%dT%H%M%S}-{week:016x}",
        domain="water",
        target="inflow",
        unit="L/s",
        model_version="water-prophet-v2" if week == WEEKS else "water-prophet-v1",
        at_s=float(until_s),
        since_s=until_s - WEEK_S,
        until_s=until_s,
        assessments=(
            assessment_of("Z001", "healthy", until_s, error=2.0, coverage=0.94),
            assessment_of(
                "Zone north/east",
                "harmed" if harmed else "healthy",
                until_s,
                error=8.0 if harmed else 2.0,
                coverage=0.0 if harmed else 1.0,
            ),
            Assessment(
                site="Z003", state="no data", since_s=until_s, until_s=until_s, steps=0, reason="No actual has come."
            ),
        ),
        drift=(
            DriftLine(
                of="feature",
                site="Zone north/east",
                name="temperature",
                measure="psi",
                value=0.3 if harmed else 0.02,
                threshold=0.1,
            ),
            DriftLine(of="prediction", site="Z001", name="inflow", measure="ks", value=float("nan"), threshold=0.15),
        ),
        estimates=(ErrorEstimate(site="Z001", error=2.2, usual_error=2.0, steps=24),),
        triggers=(Trigger(kind="performance", sites=("Zone north/east",), reason="8 in place of 2."),)
        if harmed
        else (),
        remarks=("Z003 sent its last reading `long ago`.",) if harmed else (),
    )


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    data_dir = tmp_path_factory.mktemp("watched")
    ReadingStore(data_dir / "readings", WATER).add_sites(ZONES)
    realised = RealisedStore(data_dir / "monitoring" / "realised", WATER, "inflow")
    realised.add(realised_rows("Z001", off=2.0, off_in_last_weeks=2.0))
    realised.add(realised_rows("Zone north/east", off=2.0, off_in_last_weeks=8.0))
    reports = [report_of(week) for week in range(1, WEEKS + 1)]
    store = ReportStore(data_dir / "monitoring" / "reports")
    for report in reports:
        store.add(report)
    return Watched(data_dir=data_dir, reports=reports)
