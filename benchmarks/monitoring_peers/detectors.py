"""What each peer says of the same weeks: days to its first alarm, by case."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.monitoring_forecasts import DAY_S, WEEK_S
from benchmarks.monitoring_weeks import Case, Watched, first_counted
from benchmarks.serving_peers.environments import PeerUnavailableError, environment
from serving.monitoring.drift import kolmogorov_smirnov, psi, wasserstein
from serving.monitoring.evidence import HOUR_S

SCRIPTS = Path(__file__).parent
RIVER = ("river==0.26.1", "typing_extensions")
# Newer pandas are not for this release, and it does not name all that it imports.
NANNYML = ("nannyml==0.13.1", "statsmodels", "pandas==2.3.3")
_YEAR_S = 365 * DAY_S
_KS_LEVEL = 0.05
_ADWIN_WEEKS = 13
_REFERENCE_WEEKS = 26
_ANALYSED = 1000
_LIMIT_S = 600.0
Float64Array = npt.NDArray[np.float64]
Alarms = dict[int, float]


def raw_alarms(watched: Watched, cases: Sequence[Case]) -> dict[str, Alarms]:
    """PSI, KS and Wasserstein of the last seven days' readings against the training year, every day."""
    found: dict[str, Alarms] = {"raw_ks": {}, "raw_psi": {}, "raw_wasserstein": {}}
    step_s, start_s = watched.series.panel.domain.step_s, watched.series.panel.start_s
    year = {site: _training_year(watched, site) for site in watched.grids}
    for case in cases:
        values = _readings(watched, case)
        reference = year[case.site]
        passed: dict[str, list[float]] = {name: [] for name in found}
        for day in range(1, 8):
            end = (case.begin_s + day * DAY_S - start_s) // step_s + 1
            recent = _finite(values[end - WEEK_S // step_s : end])
            if len(recent) < 48:
                continue
            statistic = kolmogorov_smirnov(reference, recent)
            # By Kolmogorov's limit law, as a test for independent values has it.
            size = len(reference) * len(recent) / (len(reference) + len(recent))
            for name, alarm in (
                ("raw_ks", 2 * np.exp(-2 * size * statistic**2) < _KS_LEVEL),
                ("raw_psi", psi(reference, recent) > 0.1),
                ("raw_wasserstein", wasserstein(reference, recent) > 0.1),
            ):
                if alarm:
                    passed[name].append(float(day))
        for name, days in passed.items():
            found[name][case.number] = first_counted(case, np.array(days))
    return found


def _readings(watched: Watched, case: Case) -> Float64Array:
    """A site's readings on the panel's grid, with the harm of the case in them."""
    panel, series = watched.series.panel, watched.series
    site = [site.name for site in panel.sites].index(case.site)
    values = panel.value_STK[site, :, panel.domain.targets.index(series.target)].astype(np.float64)
    if case.episode is not None:
        harmed = series.episodes[case.episode]
        begin = (harmed.onset_s - panel.start_s) // panel.domain.step_s + 1
        values[begin : begin + len(harmed.value_T)] = harmed.value_T
    return values


def _finite(values: Float64Array) -> Float64Array:
    return values[np.isfinite(values)]


def _training_year(watched: Watched, site: str) -> Float64Array:
    panel = watched.series.panel
    index = [one.name for one in panel.sites].index(site)
    values = panel.value_STK[index, :, panel.domain.targets.index(watched.series.target)].astype(np.float64)
    until = (watched.series.trained_until_s - panel.start_s) // panel.domain.step_s + 1
    return _finite(values[max(0, until - _YEAR_S // panel.domain.step_s) : until])


def evidently_alarms(watched: Watched, cases: Sequence[Case], *, most: int) -> Alarms:
    """Evidently's data drift preset as it comes, at the end of some weeks: all inputs against the training year."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    found: Alarms = {}
    panel, until_s = watched.series.panel, watched.series.trained_until_s
    channels = [quantity.name for quantity in panel.domain.inputs]
    names = [site.name for site in panel.sites]
    for case in spread_cases(cases, most):
        frame = pd.DataFrame(panel.value_STK[names.index(case.site), :, : len(channels)], columns=channels)
        frame[watched.series.target.name] = _readings(watched, case)
        frame.index = pd.Index(panel.moments_s)
        reference = frame[(frame.index > until_s - _YEAR_S) & (frame.index <= until_s)]
        recent = frame[(frame.index > case.begin_s) & (frame.index <= case.begin_s + WEEK_S)]
        kept = [name for name in channels if recent[name].notna().sum() > 48 and reference[name].nunique() > 1]
        result = Report([DataDriftPreset()]).run(current_data=recent[kept], reference_data=reference[kept]).dict()
        share = next(
            float(metric["value"]["share"])
            for metric in result["metrics"]
            if isinstance(metric["value"], dict) and "share" in metric["value"]
        )
        found[case.number] = 7.0 if share >= 0.5 else np.inf
    return found


def spread_cases(cases: Sequence[Case], most: int) -> list[Case]:
    """Some cases of each kind (undisturbed or injected, harmed or not), evenly over them."""
    found: list[Case] = []
    for injected in (False, True):
        for harmed in (False, True):
            kind = [case for case in cases if (case.episode is not None) is injected and case.harmed is harmed]
            picked = np.unique(np.linspace(0, len(kind) - 1, min(most, len(kind))).astype(int)) if kind else []
            found += [kind[index] for index in picked]
    return found


def dummy_alarms(cases: Sequence[Case], rate: float) -> Alarms:
    """Alarms every k weeks, with k for a given rate, at the begin of the week."""
    every = max(1, round(1 / max(rate, 1e-3)))
    sites = {site: number for number, site in enumerate(sorted({case.site for case in cases}))}
    return {case.number: 0.0 if (case.begin_s // WEEK_S + sites[case.site]) % every == 0 else np.inf for case in cases}


def adwin_alarms(watched: Watched, cases: Sequence[Case]) -> Alarms:
    """ADWIN of river with its defaults over the hourly error.

    Raises:
        PeerUnavailableError: It cannot be installed, or fails.
    """
    streams, moments = [], []
    for case in cases:
        error_T, moment_T = _error_stream(watched, case)
        streams.append(error_T)
        moments.append(moment_T)
    begins = np.concatenate([[0], np.cumsum([len(stream) for stream in streams])])
    answer = _ask("river", RIVER, "river_adwin.py", {"value": np.concatenate(streams), "begin": begins})
    position = answer["change"]
    found: Alarms = {}
    for number, case in enumerate(cases):
        own = position[(position >= begins[number]) & (position < begins[number + 1])] - begins[number]
        days = (moments[number][own] - case.begin_s) / DAY_S
        found[case.number] = first_counted(case, days[days > 0])
    return found


def _error_stream(watched: Watched, case: Case) -> tuple[Float64Array, npt.NDArray[np.int64]]:
    """Mean error of each hour over a season before the case and in it, over the usual; with the hours' ends."""
    from benchmarks.monitoring_weeks import with_episode

    grid = watched.grids[case.site]
    if case.episode is not None:
        grid = with_episode(watched, watched.series.episodes[case.episode])
    until = (case.begin_s + WEEK_S - watched.begin_s) // HOUR_S
    span = slice(max(0, until - (_ADWIN_WEEKS + 1) * 168), until)
    error, count = grid.error_PT[:, span].sum(axis=0), grid.count_PT[:, span].sum(axis=0)
    known = count > 0
    week = (case.begin_s - watched.begin_s) // WEEK_S
    moment_s = watched.begin_s + HOUR_S * np.arange(span.start + 1, until + 1)
    return error[known] / count[known] / watched.usual[case.site].usual_W[week], moment_s[known]


def nannyml_alarms(watched: Watched, cases: Sequence[Case]) -> dict[str, Alarms]:
    """NannyML's detectors with their defaults, at the end of each week; half a year is its reference.

    Raises:
        PeerUnavailableError: It cannot be installed, or fails.
    """
    realised = watched.series.realised
    steps = realised["steps"].unique()
    step = int(steps[np.argmin(np.abs(steps - 24))])
    sites = {site: number for number, site in enumerate(watched.grids)}
    parts = []
    for site, rows in realised[realised["steps"] == step].groupby("site"):
        week = (rows["valid_s"] - 1 - watched.begin_s) // WEEK_S
        reference = rows[(week >= 0) & (week < _REFERENCE_WEEKS)]
        parts.append(_nannyml_rows(reference, sites[str(site)], watched.begin_s, 0))
        for case in (case for case in cases if case.site == site):
            source = rows if case.episode is None else watched.series.episodes[case.episode].realised
            chosen = source[
                (source["steps"] == step)
                & (source["valid_s"] > case.begin_s)
                & (source["valid_s"] <= case.begin_s + WEEK_S)
            ]
            parts.append(_nannyml_rows(chosen, sites[case.site], case.begin_s, _ANALYSED + case.number))
    table = pd.concat(parts, ignore_index=True)
    answer = _ask("nannyml", NANNYML, "nannyml_chunks.py", {name: table[name].to_numpy() for name in table})
    return {
        f"nannyml_{name}": {
            case.number: 7.0 if (sites[case.site], _ANALYSED + case.number) in alarmed else np.inf for case in cases
        }
        for name, alarmed in ((name, {(int(a), int(b)) for a, b in pairs}) for name, pairs in answer.items())
    }


def _nannyml_rows(rows: pd.DataFrame, site: int, begin_s: int, first_week: int) -> pd.DataFrame:
    since_s = rows["valid_s"].to_numpy() - 1 - begin_s
    return pd.DataFrame(
        {
            "site": site,
            "week": first_week + since_s // WEEK_S,
            "second": since_s % WEEK_S,
            "reading": rows["actual"].to_numpy(dtype=np.float64),
            "median": rows["median"].to_numpy(dtype=np.float64),
            "width": (rows["upper"] - rows["lower"]).to_numpy(dtype=np.float64),
            "steps": rows["steps"].to_numpy(),
        }
    )


def _ask(
    name: str, packages: tuple[str, ...], script: str, arrays: dict[str, npt.NDArray[np.generic]]
) -> dict[str, npt.NDArray[np.int64]]:
    """Run a script of a peer in its environment, with files."""
    python = environment(name, packages)
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **arrays)
        command = [str(python), str(SCRIPTS / script), str(given), str(answer)]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
        except subprocess.CalledProcessError as error:
            raise PeerUnavailableError((error.stderr.strip().splitlines() or ["no message"])[-1]) from error
        except subprocess.TimeoutExpired as error:
            raise PeerUnavailableError(f"it took more than {_LIMIT_S:g} s") from error
        with np.load(answer) as found:
            return {key: found[key] for key in found.files}
