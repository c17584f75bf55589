"""A site's last history as the online store holds it, and the window that serving cuts from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.errors import NotEnoughDataError
from features.vocabulary import Domain, Float32Array, Site, Window
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
