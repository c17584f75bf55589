"""What can be followed: channels, their sites, the versions that answer, and why others do not."""

from __future__ import annotations

import time

from pydantic import Field

from features.vocabulary import Domain
from serving.live.channels import CHANNELS, READINGS, filter_name, id_name
from serving.schemas import Reply
from serving.text import utc_text
from serving.town import Town


class LiveSeries(Reply):
    """A quantity that is read and forecast."""

    quantity: str = Field(examples=["volume"])
    label: str = Field(examples=["Volume"])
    unit: str = Field(examples=["veh/h"])
    part: str = Field(description="Which list of `forecast` has it; empty where that is one list.")
    field: str = Field(description="What an entry of that list calls it.", examples=["traffic_volume"])


class LiveModel(Reply):
    """The champion of one target."""

    target: str = Field(examples=["volume"])
    model_version: str | None = Field(default=None, description="Left out if not loaded.", examples=["traffic-lstm-v3"])
    reason: str | None = Field(default=None, description="Why it is not loaded, and what to do.")


class LiveChannel(Reply):
    """A domain's channel."""

    channel: str = Field(examples=["traffic"])
    entity: str = Field(description="What a site is called.", examples=["road"])
    filter: str = Field(description="What filters call its sites.", examples=["roads"])
    id: str = Field(description="What updates call a site.", examples=["road_id"])
    headline: str = Field(
        description="The field of an update that `change_from_previous` is about.", examples=["congestion_level"]
    )
    step_s: int = Field(description="Time between two readings or two forecasts [s].", examples=[3600])
    ready: bool = Field(description="Whether forecasts can be made.")
    series: list[LiveSeries]
    models: list[LiveModel]
    sites: list[str] = Field(description="Names of all sites.", examples=[["R001", "R002"]])


class LiveOverview(Reply):
    """What can be followed over `/ws`."""

    timestamp: str = Field(examples=["2026-02-06T09:20:00Z"])
    channels: list[LiveChannel]
    readings: str = Field(description="The channel of the readings of all sites.", examples=["readings"])


def overview(town: Town) -> LiveOverview:
    """What can be followed now."""
    served = [domain for domain in town.domains if domain.name in CHANNELS]
    return LiveOverview(
        timestamp=utc_text(int(now_s(town))), channels=[_channel(town, domain) for domain in served], readings=READINGS
    )


def now_s(town: Town) -> float:
    """The town's moment [s since 1970]."""
    windows = next(filter(None, (town.windows(domain.name) for domain in town.domains)), None)
    return windows.now() if windows is not None else time.time()


def _channel(town: Town, domain: Domain) -> LiveChannel:
    channel, windows = CHANNELS[domain.name], town.windows(domain.name)
    versions = {
        release.champion.target.name: release.champion.artifact.model_version for release in town.releases(domain.name)
    }
    return LiveChannel(
        channel=domain.name,
        entity=domain.entity,
        filter=filter_name(domain),
        id=id_name(domain),
        headline=channel.headline,
        step_s=domain.step_s,
        ready=bool(versions),
        series=[
            LiveSeries(
                quantity=series.quantity, label=series.label, unit=series.unit, part=series.part, field=series.field
            )
            for series in channel.series
        ],
        models=[_model(town, domain.name, target.name, versions.get(target.name)) for target in domain.targets],
        sites=sorted(windows.memory.sites) if windows is not None else [],
    )


def _model(town: Town, domain: str, target: str, version: str | None) -> LiveModel:
    if version is not None:
        return LiveModel(target=target, model_version=version)
    why = town.why_not(domain, target)
    return LiveModel(target=target, reason=f"{why.fact}. {why.remedy}")
