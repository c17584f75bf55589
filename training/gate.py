"""The promotion gate: a candidate against the naive profile and against the present champion, window by window."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.vocabulary import Float32Array, Int64Array
from training.evaluate import NOMINAL_COVERAGE, mean_interval

Float64Array = npt.NDArray[np.float64]
_PROFILE = "the seasonal profile"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What a candidate must reach.

    Intervals that hold too seldom mislead, those that hold too often only waste: the tolerance is narrower below, and
    above it leaves room for sites that have become steadier since the calibration.

    Attributes:
        confidence: Of the interval of a difference of errors.
        lowest_coverage: Smallest share of hours inside the nominal 90 % interval.
        highest_coverage: Largest.
        largest_site_loss: By how much the error of a site may grow, as a share.
        largest_latency_ms: Longest time of one forecast of the graph on one thread [ms].
        parity_tolerance: Largest relative difference between graph and forecaster.
        fewest_seasons: Fewest seasons of origins in a comparison; of fewer blocks an interval says nothing.
        allow_equal: Whether a candidate that is not worse than the champion becomes champion, for retraining on a
            schedule: newer readings, same error. Off by default: a change without a gain is a risk without a gain.
        equal_margin: Share of the champion's error that `allow_equal` may lose: the interval must lie above minus this.
        largest_loss: Judges by the errors themselves in place of an interval, which of few blocks says nothing: by
            which share the error may be above the champion's. None for the interval. See `retraining_rules`.
    """

    confidence: float = 0.90
    lowest_coverage: float = 0.85
    highest_coverage: float = 0.97
    largest_site_loss: float = 0.05
    largest_latency_ms: float = 20.0
    parity_tolerance: float = 1e-4
    fewest_seasons: int = 3
    allow_equal: bool = False
    equal_margin: float = 0.02
    largest_loss: float | None = None


def retraining_rules(largest_loss: float) -> GateRules:
    """What is asked of a retraining, on the few newest days, which neither it nor the champion has learnt.

    It must beat the seasonal profile there, and lose at most a share to the champion; whether it is better shows a
    canary, or the errors that are realised. A longer test would keep the newest weeks from it, which are what a
    retraining is for. After a change intervals take days to widen: they may hold less often.

    Args:
        largest_loss: That share.
    """
    return GateRules(largest_loss=largest_loss, fewest_seasons=0, lowest_coverage=0.70, highest_coverage=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Windows that the candidate has not learnt from.

    Attributes:
        target_BH: What was measured [unit], NaN where nothing was.
        naive_BH: The seasonal profile [unit].
        origin_B: Grid index of each origin.
        site_index_B: Site of each window.
        sites: Names of the sites.
        season_steps: Origins in a season, the block of the bootstrap.
        unit: Of the target.
    """

    target_BH: Float32Array
    naive_BH: Float32Array
    origin_B: Int64Array
    site_index_B: Int64Array
    sites: tuple[str, ...]
    season_steps: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The model that would be champion.

    Attributes:
        version: In the registry.
        quantiles_BHQ: Its forecasts of the held-out windows [unit].
        levels: Their levels.
        parity: Largest relative difference between its graph and its forecaster.
        latency_ms: Time of one forecast [ms].
        measured: Whether the held-out windows are a sensor's.
    """

    version: int
    quantiles_BHQ: Float32Array
    levels: tuple[float, ...]
    parity: float
    latency_ms: float
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The model that is champion now.

    Attributes:
        version: In the registry.
        median_BH: Its forecasts of the held-out windows [unit], NaN for a window that it may have learnt from; None
            where it cannot be compared at all.
        measured: Whether it was judged on a sensor's readings.
        remark: What is special about the comparison, empty for nothing.
    """

    version: int
    median_BH: Float32Array | None
    measured: bool
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of a verdict.

    Attributes:
        name: What is asked.
        found: What was found, for people.
        allowed: What is allowed, for people.
        passed: Whether it is so.
        figures: What was found, for machines.
    """

    name: str
    found: str
    allowed: str
    passed: bool
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate says of a candidate.

    Attributes:
        model: Name in the registry.
        candidate: Version that was judged.
        champion: Version that it was judged against, None where there was none.
        windows: How many windows were forecast.
        checks: The lines, each of which must hold.
        remarks: What a reader should know besides.
        needs_person: Whether a person must approve it even where approval is not asked for in general: the champion
            could not be compared.
    """

    model: str
    candidate: int
    champion: int | None
    windows: int
    checks: tuple[Check, ...]
    remarks: tuple[str, ...] = ()
    needs_person: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def title(self) -> str:
        """Who was judged against whom."""
        against = "no champion before" if self.champion is None else f"champion version {self.champion}"
        return f"{self.model}: version {self.candidate}, {against}"

    @property
    def reason(self) -> str:
        """Why it passed or failed, in one line."""
        failed = [
            f"{check.name}: {check.found} (allowed: {check.allowed})" for check in self.checks if not check.passed
        ]
        return "; ".join(failed) or f"all {len(self.checks)} checks hold"

    def as_json(self) -> dict[str, Any]:
        """Plain data, from which `verdict_from_json` makes it again."""
        return {**asdict(self), "passed": self.passed}

    def as_markdown(self) -> str:
        """A table for people."""
        rows = [("check", "found", "allowed", "holds"), ("---", "---", "---", "---")]
        rows += [(check.name, check.found, check.allowed, "yes" if check.passed else "**no**") for check in self.checks]
        lines = [f"# {self.title}", "", f"**{'passed' if self.passed else 'failed'}**: {self.reason}", ""]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        lines += ["", *(f"- {remark}" for remark in self.remarks)]
        return "\n".join(lines).rstrip() + "\n"


def verdict_from_json(content: dict[str, Any]) -> Verdict:
    """A verdict from what `Verdict.as_json` gave.

    Raises:
        KeyError: A field is missing.
        TypeError: A field is of another layout.
    """
    fields = {name: value for name, value in content.items() if name != "passed"}
    checks = tuple(Check(**check) for check in content["checks"])
    return Verdict(**{**fields, "checks": checks, "remarks": tuple(content["remarks"])})


def judge_candidate(
    candidate: Candidate, champion: Champion | None, held_out: HeldOut, *, model: str, rules: GateRules
) -> Verdict:
    """Hold a candidate to the rules.

    Against a champion that cannot be compared the seasonal profile alone counts, and a person must approve.

    Args:
        candidate: Its forecasts and certificates.
        champion: The present champion's, None for the first model.
        held_out: The windows that both forecast.
        model: Name in the registry.
        rules: What is asked.
    """
    median = candidate.quantiles_BHQ[:, :, candidate.levels.index(0.5)]
    remarks = [champion.remark] if champion is not None and champion.remark else []
    checks = [_better(_PROFILE, median, held_out.naive_BH, held_out, rules, least=0.0)]
    rival, rival_name = held_out.naive_BH, _PROFILE
    if champion is not None and champion.median_BH is not None:
        rival, rival_name = champion.median_BH, f"champion version {champion.version}"
        least = -rules.equal_margin if rules.allow_equal else 0.0
        checks.append(_better(rival_name, median, rival, held_out, rules, least=least))
    sites, unjudged = _sites(rival_name, median, rival, held_out, rules)
    if unjudged:
        remarks.append(f"Sites with less than a season of common windows are not judged alone: {', '.join(unjudged)}.")
    checks += [_coverage(candidate, held_out, rules), sites, _parity(candidate, rules), _latency(candidate, rules)]
    if champion is not None and champion.measured:
        found = "measured" if candidate.measured else "generated"
        checks.append(Check(name="readings of the test", found=found, allowed="measured", passed=candidate.measured))
    return Verdict(
        model=model,
        candidate=candidate.version,
        champion=None if champion is None else champion.version,
        windows=len(held_out.origin_B),
        checks=tuple(checks),
        remarks=tuple(remarks),
        needs_person=champion is not None and champion.median_BH is None,
    )


def _better(
    name: str,
    candidate_BH: Float32Array,
    rival_BH: Float32Array,
    held_out: HeldOut,
    rules: GateRules,
    *,
    least: float,
) -> Check:
    """Whether the gain (the rival's mean absolute error minus the candidate's) is above `least` of the rival's error.

    All sites of an origin are resampled together: they share its weather.
    """
    error, rival_error, known = _errors(candidate_BH, rival_BH, held_out)
    used = known.any(axis=1)
    origins, moment = np.unique(held_out.origin_B[used], return_inverse=True)
    seasons = len(origins) / held_out.season_steps
    if rules.largest_loss is not None:
        return _no_larger_loss(name, error, rival_error, known, held_out, rules.largest_loss)
    name = f"better than {name}" if least == 0 else f"not worse than {name}"
    if seasons < rules.fewest_seasons:
        return Check(
            name=name,
            found=f"{seasons:.1f} seasons of common windows",
            allowed=f"{rules.fewest_seasons} at least",
            passed=False,
            figures={"seasons": seasons},
        )
    count = np.bincount(moment, weights=known[used].sum(axis=1))
    gain = np.bincount(moment, weights=(rival_error - error)[used].sum(axis=1))
    mae, rival_mae = (float(part.sum() / count.sum()) for part in (error, rival_error))
    low, high = mean_interval(
        gain, count, block=held_out.season_steps, confidence=rules.confidence, rng=np.random.default_rng(0)
    )
    scale = rival_mae or math.inf
    word = "better" if low > 0 else "worse" if high < 0 else "no clear difference"
    return Check(
        name=name,
        found=f"{word}: MAE {mae:.4g} against {rival_mae:.4g} {held_out.unit}; gain {1 - mae / scale:+.1%}, "
        f"{rules.confidence:.0%} interval [{low / scale:+.1%}, {high / scale:+.1%}]",
        allowed=f"interval above {least:.0%}",
        passed=low > least * rival_mae,
        figures={"mae": mae, "rival_mae": rival_mae, "gain_low": low, "gain_high": high, "seasons": seasons},
    )


def _no_larger_loss(
    name: str,
    error: Float64Array,
    rival_error: Float64Array,
    known: npt.NDArray[np.bool_],
    held_out: HeldOut,
    largest_loss: float,
) -> Check:
    """Whether the error is below the seasonal profile's, or not far above the champion's."""
    profile = name == _PROFILE
    allowed = 0.0 if profile else largest_loss
    count = int(known.sum())
    mae, rival_mae = (float(part.sum()) / count if count else math.nan for part in (error, rival_error))
    loss = mae / rival_mae - 1 if rival_mae else (math.inf if mae else 0.0)
    return Check(
        name=f"better than {name}" if profile else f"not much worse than {name}",
        found=f"MAE {mae:.4g} against {rival_mae:.4g} {held_out.unit}, {loss:+.1%}" if count else "no common windows",
        allowed="below 0%" if profile else f"{allowed:+.0%} at most",
        # Written this way round, an error that is not a number does not pass.
        passed=loss < 0 if profile else loss <= allowed,
        figures={"mae": mae, "rival_mae": rival_mae} if count else {},
    )


def _errors(
    candidate_BH: Float32Array, rival_BH: Float32Array, held_out: HeldOut
) -> tuple[Float64Array, Float64Array, npt.NDArray[np.bool_]]:
    """Absolute errors of both, 0 where not both are known, and where both are."""
    target = held_out.target_BH.astype(np.float64)
    error, rival_error = np.abs(target - candidate_BH), np.abs(target - rival_BH)
    known = np.isfinite(error) & np.isfinite(rival_error)
    return np.where(known, error, 0.0), np.where(known, rival_error, 0.0), known


def _sites(
    name: str, candidate_BH: Float32Array, rival_BH: Float32Array, held_out: HeldOut, rules: GateRules
) -> tuple[Check, list[str]]:
    """Whether no site's error grows too much, and the sites that have too few windows to tell."""
    error, rival_error, known = _errors(candidate_BH, rival_BH, held_out)
    losses, unjudged = {}, []
    for index, site in enumerate(held_out.sites):
        chosen = (held_out.site_index_B == index) & known.any(axis=1)
        if chosen.sum() < held_out.season_steps:
            unjudged.append(site)
            continue
        ours, theirs = float(error[chosen].sum()), float(rival_error[chosen].sum())
        losses[site] = ours / theirs - 1 if theirs else (math.inf if ours else 0.0)
    worst = max(losses, key=lambda site: losses[site], default="")
    found = f"{worst}: MAE {losses[worst]:+.1%} against {name}" if worst else "no site with a season of windows"
    check = Check(
        name="worst site",
        found=found,
        allowed=f"{rules.largest_site_loss:+.0%} at most",
        passed=all(loss <= rules.largest_site_loss for loss in losses.values()),
        figures={site: loss for site, loss in losses.items() if math.isfinite(loss)},
    )
    return check, unjudged


def _coverage(candidate: Candidate, held_out: HeldOut, rules: GateRules) -> Check:
    low, high = (candidate.levels.index(level) for level in NOMINAL_COVERAGE["coverage_90"])
    target = held_out.target_BH
    inside = (target >= candidate.quantiles_BHQ[:, :, low]) & (target <= candidate.quantiles_BHQ[:, :, high])
    share = float(inside.sum() / max(int(np.isfinite(target).sum()), 1))
    return Check(
        name="90 % interval holds",
        found=f"{share:.1%} of the hours",
        allowed=f"{rules.lowest_coverage:.0%} to {rules.highest_coverage:.0%}",
        passed=rules.lowest_coverage <= share <= rules.highest_coverage,
        figures={"coverage_90": share},
    )


def _parity(candidate: Candidate, rules: GateRules) -> Check:
    return Check(
        name="ONNX parity",
        found=f"{candidate.parity:.1e} relative",
        allowed=f"{rules.parity_tolerance:.0e} at most",
        # Written this way round, a certificate that is not a number does not hold.
        passed=candidate.parity <= rules.parity_tolerance,
        figures={"largest_relative": candidate.parity} if math.isfinite(candidate.parity) else {},
    )


def _latency(candidate: Candidate, rules: GateRules) -> Check:
    return Check(
        name="latency of a forecast",
        found=f"{candidate.latency_ms:.2f} ms",
        allowed=f"{rules.largest_latency_ms:g} ms at most",
        passed=candidate.latency_ms <= rules.largest_latency_ms,
        figures={"latency_ms": candidate.latency_ms},
    )
