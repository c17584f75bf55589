"""From a client's words to topics: channels, filters, and names of sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from features.domains import DOMAINS
from features.errors import InvalidParameterError, UnknownNameError
from features.registry import nearest_names
from features.vocabulary import Site
from serving.live.channels import CHANNELS, READINGS, Topic, filter_name
from serving.live.messages import Filters
from serving.town import Town


def channel_domains(town: Town, channel: str) -> list[str]:
    """The domains of a channel that are served.

    Raises:
        UnknownNameError: There is no such channel; near names are in the message.
        NotReadyError: It is not served here.
    """
    served = [domain.name for domain in town.domains if domain.name in CHANNELS]
    if channel == READINGS:
        return served
    if channel not in CHANNELS:
        known = [*served, READINGS]
        raise UnknownNameError(kind="channel", name=channel, nearest=nearest_names(channel, known), known=known)
    if channel not in served:
        raise town.why_not(channel)
    return [channel]


def select(town: Town, channel: str, filters: Filters) -> list[Topic]:
    """The topics that filters mean: every site of the channel's domains where they name none.

    Raises:
        UnknownNameError: There is no channel or no site of a name; near names are in the message.
        InvalidParameterError: A filter is not one of the channel's.
        NotReadyError: The domain is not loaded.
    """
    domains, named = channel_domains(town, channel), filters.named()
    if named:
        found = _named(town, channel, domains, named)
        return list(dict.fromkeys(Topic(channel=channel, domain=domain, site=site) for domain, site in found))
    sites = {domain: sites_of(town, domain) for domain in domains}
    if not any(sites.values()):
        raise town.why_not(domains[0])
    return [Topic(channel=channel, domain=domain, site=site) for domain in domains for site in sites[domain]]


def sites_of(town: Town, domain: str) -> Mapping[str, Site]:
    """The sites of a domain by name, none while it is not loaded."""
    windows = town.windows(domain)
    return windows.memory.sites if windows is not None else {}


def _named(
    town: Town, channel: str, domains: Sequence[str], named: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """Domain and name of each site that filters name."""
    filters = {filter_name(DOMAINS[domain]): domain for domain in domains}
    for key, names in named.items():
        if key != "sites" and key not in filters:
            allowed = [*filters, "sites"]
            raise InvalidParameterError(
                parameter=f"filters.{key}",
                provided=names[0] if names else None,
                allowed=f"a filter of the channel {channel}: {', '.join(allowed)}",
                fact=f"The channel {channel} has no such filter",
                remedy=f"Use {', '.join(allowed)}.",
            )
        chosen = domains if key == "sites" else [filters[key]]
        sites = {domain: sites_of(town, domain) for domain in chosen}
        for name in names:
            found = [(domain, name) for domain in chosen if name in sites[domain]]
            if not found:
                raise _unknown(town, chosen, sites, name)
            yield from found


def _unknown(town: Town, domains: Sequence[str], sites: Mapping[str, Mapping[str, Site]], name: str) -> Exception:
    known = [site for names in sites.values() for site in names]
    if not known:
        return town.why_not(domains[0])
    kind = DOMAINS[domains[0]].entity if len(domains) == 1 else "site"
    return UnknownNameError(kind=kind, name=name, nearest=nearest_names(name, known), known=known)
