"""Who answers for a site: a hash of its name, so that every worker finds the same and a site stays where it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from features.card import CHAMPION
from serving.releases.plans import CANARY, CHALLENGER, Standing

_HASHES = float(2**64)


def position(salt: str, site: str) -> float:
    """Where a site stands between 0 and 1 (1 excluded), by a hash that differs from salt to salt."""
    digest = hashlib.blake2b(site.encode("utf-8", "surrogatepass"), digest_size=8, key=salt.encode()).digest()
    # Fifty-three bits are all that a float holds; with more, the largest would round up to 1.
    return (int.from_bytes(digest, "big") >> 11) * 2048 / _HASHES


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of the sites.

    Attributes:
        role: Who answers for them.
        salt: Decides which sites they are.
        below: Those whose position is below this.
    """

    role: str
    salt: str
    below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The shares, in order of precedence; who is in none is the champion's."""

    shares: tuple[Share, ...] = ()

    def role(self, site: str) -> str:
        """Who answers for a site."""
        for share in self.shares:
            if position(share.salt, site) < share.below:
                return share.role
        return CHAMPION

    def without(self, role: str) -> Split:
        """The split once a role answers for nobody."""
        return Split(shares=tuple(share for share in self.shares if share.role != role))


def share_of(role: str, *, salt: str, percent: float, sites: Iterable[str] = ()) -> Share:
    """A share of at least one of the known sites: in a small town 5 % would otherwise be nobody, for ever.

    Args:
        role: Who answers for it.
        salt: Decides which sites it holds.
        percent: How large it is [%].
        sites: The known sites.
    """
    first = min((position(salt, site) for site in sites), default=0.0)
    return Share(role=role, salt=salt, below=max(percent / 100, math.nextafter(first, 1.0)))


def split_of(standing: Standing, loaded: Mapping[str, object], sites: Iterable[str]) -> Split:
    """The split that the registry asks for, of the versions that are loaded.

    A site that both a canary and a challenger would answer for is the canary's.

    Args:
        standing: What the registry says.
        loaded: The roles whose version can answer.
        sites: The known sites.
    """
    names, shares = tuple(sites), []
    for role, plan in ((CANARY, standing.canary), (CHALLENGER, standing.challenger)):
        if plan is not None and role in loaded:
            shares.append(share_of(role, salt=plan.id, percent=plan.share_percent, sites=names))
    return Split(shares=tuple(shares))
