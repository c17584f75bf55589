"""Whether a model serves all sites, and all zones of a town, about equally well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.vocabulary import Site
from training.evaluate import resampled_sums
from training.train import Judgement

_DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessLimits:
    """From where on a difference is flagged: the lower end of its 90 % interval must lie above.

    Attributes:
        error_ratio: Relative error of the worst group over that of the ordinary one (the median of all).
        coverage_gap: Share inside the 90 % interval, best group less worst.
        seasons: Groups with fewer seasons (weeks) of measured hours are left out.
    """

    error_ratio: float = 1.5
    coverage_gap: float = 0.05
    seasons: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """One site or zone.

    Attributes:
        name: Of the group.
        hours: Measured forecast hours.
        level: Mean of what was measured [unit].
        relative_error: Mean absolute error over that mean.
        coverage_90: Share inside the 90 % interval.
    """

    name: str
    hours: int
    level: float
    relative_error: float
    coverage_90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Groups beside each other.

    Attributes:
        among: `site` or `zone`.
        groups: Those that were compared, the largest relative error first.
        left_out: Names of groups with too few measured hours.
        error_ratio: Relative error of the first over the median of all.
        error_ratio_90: Its 90 % interval.
        coverage_gap: Share inside the 90 % interval, best less worst.
        coverage_gap_90: Its 90 % interval.
        least_covered: Name of the group with the smallest share inside.
        flags: What is above its limit, in words; empty if nothing is.
    """

    among: str
    groups: tuple[GroupFigures, ...]
    left_out: tuple[str, ...]
    error_ratio: float
    error_ratio_90: tuple[float, float]
    coverage_gap: float
    coverage_gap_90: tuple[float, float]
    least_covered: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness:
    """The check across sites and across zones.

    Attributes:
        sites: None where there are fewer than two sites to compare.
        zones: None where there are fewer than two zones to compare.
        remarks: What could not be compared, and why.
        limits: What counts as a flag.
    """

    sites: Comparison | None
    zones: Comparison | None
    remarks: tuple[str, ...]
    limits: FairnessLimits

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags."""
        return tuple(flag for part in (self.sites, self.zones) if part is not None for flag in part.flags)


def check_fairness(
    judgement: Judgement,
    *,
    rng: np.random.Generator,
    limits: FairnessLimits | None = None,
    zones: Mapping[str, str] | None = None,
) -> Fairness:
    """Compare sites, and zones, by relative error and by coverage.

    Each site's error is divided by its own mean, so that a large road is not called unfair for its size. Intervals come
    from blocks of whole seasons in time, all sites drawn together (see `training.evaluate.resampled_sums`). The worst
    group is picked on the same hours, so its ratio is a little above 1 even where all are alike: only an interval that
    lies wholly above the limit is a flag.

    Args:
        judgement: Of a model.
        rng: Source of the draws.
        limits: What counts as a flag.
        zones: Zone of each site by name; by default the sites' attribute `zone`.
    """
    limits = limits or FairnessLimits()
    panel = judgement.windows.panel
    names = [site.name for site in panel.sites]
    sums = _sums_by_site(judgement)
    season = panel.domain.season_steps
    remarks = []
    sites = _compare("site", names, sums, season=season, limits=limits, rng=rng)
    if sites is None:
        remarks.append(
            "There is one site: nothing to compare it with."
            if len(names) == 1
            else "Fewer than two sites were measured for long enough to compare them."
        )
    zone_of = [_zone(site, zones) for site in panel.sites]
    known = sorted({zone for zone in zone_of if zone})
    grouped = (
        np.stack([sums[:, [zone == name for zone in zone_of]].sum(axis=1) for name in known], axis=1) if known else None
    )
    compared = None if grouped is None else _compare("zone", known, grouped, season=season, limits=limits, rng=rng)
    if not known and panel.domain.entity == "zone":
        remarks.append("The sites are zones themselves.")
    elif not known:
        remarks.append("No site says which zone it is in (no attribute called zone): zones are not compared.")
    elif compared is None:
        remarks.append("Fewer than two zones were measured for long enough to compare them.")
    return Fairness(sites=sites, zones=compared, remarks=tuple(remarks), limits=limits)


def _zone(site: Site, zones: Mapping[str, str] | None) -> str:
    if zones is not None:
        return zones.get(site.name, "")
    return f"{site.attributes['zone']:g}" if "zone" in site.attributes else ""


def _sums_by_site(judgement: Judgement) -> npt.NDArray[np.float64]:
    """Absolute error, measured level, hours inside and hours of each site at each origin: shape (4, S, T)."""
    windows, levels = judgement.windows, judgement.levels
    target, quantiles = judgement.target_BH.astype(np.float64), judgement.quantiles_BHQ
    known = np.isfinite(target)
    inside = (target >= quantiles[:, :, levels.index(0.05)]) & (target <= quantiles[:, :, levels.index(0.95)])
    error = np.where(known, np.abs(target - quantiles[:, :, levels.index(0.5)]), 0.0)
    of_window = (error, np.where(known, np.abs(target), 0.0), inside & known, known)
    moments, position = np.unique(windows.origin_B, return_inverse=True)
    sums = np.zeros((4, len(windows.panel.sites), len(moments)))
    for row, values in enumerate(of_window):
        np.add.at(sums[row], (windows.site_index_B, position), values.sum(axis=1))
    return sums


def _compare(
    among: str,
    names: list[str],
    sums: npt.NDArray[np.float64],
    *,
    season: int,
    limits: FairnessLimits,
    rng: np.random.Generator,
) -> Comparison | None:
    """Groups beside each other, or None where fewer than two are left; `sums` is (4, groups, origins)."""
    # An origin counts once for each lead and site: of a whole one, the share that was measured.
    whole = sums[3].max(axis=1)
    enough = (sums[3].sum(axis=1) >= limits.seasons * season * whole) & (sums[1].sum(axis=1) > 0)
    left_out = tuple(name for name, kept in zip(names, enough, strict=True) if not kept)
    if enough.sum() < 2:
        return None
    kept_names = [name for name, kept in zip(names, enough, strict=True) if kept]
    kept = sums[:, enough]
    drawn = resampled_sums(kept.reshape(-1, kept.shape[2]), block=season, rng=rng, draws=_DRAWS)
    relative, covered = _shares(kept.sum(axis=2))
    relative_D, covered_D = _shares(drawn.reshape(4, len(kept_names), _DRAWS))
    worst, least, most = int(relative.argmax()), int(covered.argmin()), int(covered.argmax())
    ratio_90 = _interval(relative_D[worst] / np.median(relative_D, axis=0))
    gap_90 = _interval(covered_D[most] - covered_D[least])
    ratio, gap = float(relative[worst] / np.median(relative)), float(covered[most] - covered[least])
    flags = []
    if ratio_90[0] > limits.error_ratio:
        flags.append(
            f"{among} {kept_names[worst]}: relative error {ratio:.2f} times the median of all {among}s "
            f"(90 % interval {ratio_90[0]:.2f} to {ratio_90[1]:.2f}, limit {limits.error_ratio:g})"
        )
    if gap_90[0] > limits.coverage_gap:
        flags.append(
            f"{among} {kept_names[least]}: its 90 % interval holds {covered[least]:.1%}, that of {kept_names[most]} "
            f"{covered[most]:.1%} (gap {gap_90[0]:.1%} to {gap_90[1]:.1%}, limit {limits.coverage_gap:.0%})"
        )
    groups = [
        GroupFigures(
            name=name,
            hours=int(kept[3, index].sum()),
            level=float(kept[1, index].sum() / kept[3, index].sum()),
            relative_error=float(relative[index]),
            coverage_90=float(covered[index]),
        )
        for index, name in enumerate(kept_names)
    ]
    return Comparison(
        among=among,
        groups=tuple(sorted(groups, key=lambda group: -group.relative_error)),
        left_out=left_out,
        error_ratio=ratio,
        error_ratio_90=ratio_90,
        coverage_gap=gap,
        coverage_gap_90=gap_90,
        least_covered=kept_names[least],
        flags=tuple(flags),
    )


def _shares(sums: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Relative error and coverage from the four sums; NaN where a draw holds no hour of a group."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[0] / sums[1], sums[2] / sums[3]


def _interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [0.05, 0.95])
    return float(low), float(high)
