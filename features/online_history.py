"""A site's last history as the online store holds it, and the window that serving cuts from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.errors import NotEnoughDataError
from features.readings import epoch_s
from features.vocabulary import Domain, Float32Array, Quantity, Site, Window
from features.windows import make_windows, panel_from_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineHistory:
    """A site's last history as the online store holds it.

    Attributes:
        valid_until_s: Moment of the last step of its history [s since 1970].
        value_TK: Inputs of the domain over one history and one horizon after it, NaN where nothing is known; after the
            history only what is known ahead can be there.
    """

    valid_until_s: int
    value_TK: Float32Array

    def around(self, origin_s: int, *, step_s: int) -> Float32Array:
        """The values shifted to a later (or earlier) origin; what is not known there is NaN."""
        length = len(self.value_TK)
        moved = np.full_like(self.value_TK, np.nan)
        shift = (origin_s - self.valid_until_s) // step_s
        if 0 <= shift < length:
            moved[: length - shift] = self.value_TK[shift:]
        elif -length < shift < 0:
            moved[-shift:] = self.value_TK[:shift]
        return moved


def histories_of(
    domain: Domain,
    readings: pd.DataFrame,
    *,
    origin_s: int,
    before: Mapping[str, OnlineHistory] | None = None,
) -> dict[str, OnlineHistory]:
    """The histories of sites, each up to its last step with any reading at or before the origin.

    Equal, value by value, to what `make_windows` cuts there with all of the readings known.

    Args:
        domain: Names the inputs.
        readings: Key columns and `value`, all revisions that count, ordered by site, quantity and both clocks; of a
            site in `before` those of whole steps alone, with every step from its last one on.
        origin_s: A whole step [s since 1970].
        before: Histories that the readings change; of other sites all are needed.

    Returns:
        By site; sites without any reading up to the origin are left out.
    """
    cells = _cells(domain, readings)
    past = cells[cells["end_s"] <= origin_s]
    until_s = past.groupby("site", sort=False)["end_s"].max().to_dict()
    histories = {}
    for site, rows in cells.groupby("site", sort=False):
        held = None if before is None else before.get(str(site))
        known_s = [*([held.valid_until_s] if held else []), *([int(until_s[site])] if site in until_s else [])]
        if known_s:
            histories[str(site)] = _filled(domain, rows, held, until_s=max(known_s))
    return histories


def _filled(domain: Domain, cells: pd.DataFrame, before: OnlineHistory | None, *, until_s: int) -> OnlineHistory:
    """The history of one site up to a moment: what was known before, and the cells."""
    length, total = domain.history_steps, domain.history_steps + domain.horizon_steps
    if before is None:
        value_TK = np.full((total, len(domain.inputs)), np.nan, dtype=np.float32)
    else:
        value_TK = before.around(until_s, step_s=domain.step_s)
    channel = cells["channel"].to_numpy()
    position = length - 1 + (cells["end_s"].to_numpy() - until_s) // domain.step_s
    ahead = np.array([quantity.name in domain.known_ahead for quantity in domain.inputs])
    inside = (position >= 0) & (position < np.where(ahead[channel], total, length))
    value_TK[position[inside], channel[inside]] = cells["value"].to_numpy()[inside].astype(np.float32)
    return OnlineHistory(valid_until_s=until_s, value_TK=value_TK)


def _cells(domain: Domain, readings: pd.DataFrame) -> pd.DataFrame:
    """The last value of each step that has readings: rows `site, channel, end_s, value`."""
    # Of several revisions of a moment the last one counts.
    last = readings.drop_duplicates(["site", "quantity", "valid_at"], keep="last")
    names = [quantity.name for quantity in domain.inputs]
    step_s = domain.step_s
    frame = pd.DataFrame(
        {
            "site": last["site"].to_numpy(),
            "channel": pd.Index(names).get_indexer(pd.Index(last["quantity"])),
            "end_s": -(-epoch_s(last["valid_at"]) // step_s) * step_s,
            "value": last["value"].to_numpy(dtype=np.float64),
        }
    )
    frame = frame[frame["channel"] >= 0]
    key = ["site", "channel", "end_s"]
    crowded = frame.duplicated(key, keep=False)
    if not crowded.any():
        return frame
    parts = [frame[~crowded]]
    for channel, rows in frame[crowded].groupby("channel", sort=False):
        parts.append(_aggregated(domain.inputs[int(str(channel))], rows, key))
    return pd.concat(parts, ignore_index=True)


def _aggregated(quantity: Quantity, rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    groups = rows.groupby(key, sort=False)
    if quantity.aggregation in ("max", "last"):
        return groups["value"].agg(quantity.aggregation).reset_index()
    # Summed one after the other like a panel's cells, so that both are equal to the last bit.
    number = groups.ngroup().to_numpy()
    sums = np.bincount(number, weights=rows["value"].to_numpy())
    if quantity.aggregation == "mean":
        return rows.drop_duplicates(key)[key].assign(value=sums / np.bincount(number))
    return rows.drop_duplicates(key)[key].assign(value=sums)


def with_neighbours(domain: Domain, site: Site, known: dict[str, Site]) -> list[Site]:
    """A site and those of its first neighbours that are known, as `window_of` takes them."""
    return [site, *(known[name] for name in site.neighbours[: domain.neighbour_count] if name in known)]


def window_of(domain: Domain, group: list[Site], histories: dict[str, OnlineHistory], *, origin_s: int) -> Window:
    """The window of the first site of `group` at an origin; the others are its neighbours.

    Raises:
        NotEnoughDataError: There is no history of the first site.
    """
    if group[0].name not in histories:
        raise NotEnoughDataError(
            f"The online store holds no readings of this {domain.entity}",
            found=group[0].name,
            remedy="Ingest its readings, then run `towncast materialise`.",
        )
    members = [site for site in group if site.name in histories]
    blocks = [histories[site.name].around(origin_s, step_s=domain.step_s) for site in members]
    panel = panel_from_blocks(domain, members, np.stack(blocks), origin_s=origin_s)
    return make_windows(panel, [0], [panel.first_origin])
