"""What is sent of a site, made once for all who follow it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from features.domains import DOMAINS
from features.errors import TowncastError
from serving.errors import refusal
from serving.live.channels import CHANNELS, READINGS, Channel, Topic, id_name
from serving.memory import no_reading
from serving.predictions import APIS
from serving.predictions.answering import Answered, answer_many
from serving.service import ForecastResult
from serving.text import utc_text
from serving.town import Town
from serving.window_source import WindowSource

# Readings that are sent with the newest one [h]: what the dashboard draws before its line of now.
_RECENT_H = 48
_HOUR_S = 3600
# Readings are written with four decimals: they come from single precision.
_DECIMALS = 4
_CHANGE = '"change_from_previous":'
Roles = Callable[[str, str, str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """The present state of a topic.

    Attributes:
        says: All that may differ between two updates; equal ones need not be sent twice.
        before: The message up to the change from what the client was last sent.
        after: The rest of it; "" where the message is whole and no change is in it.
        headline: What the change is about; None where there is none.
    """

    says: Any
    before: str
    after: str = ""
    headline: float | None = None

    def text(self, previous: float | None) -> str:
        """The message for a client whose last update of the topic had the headline `previous`."""
        if not self.after:
            return self.before
        if previous is None or self.headline is None:
            return f"{self.before}null{self.after}"
        return f"{self.before}{round(self.headline - previous, _DECIMALS)}{self.after}"


class UpdateMaker:
    """Makes updates from what a town forecasts and remembers.

    Args:
        town: Forecasts, and knows the readings.
        role_of: The role of a model version, from domain, target and version.
    """

    def __init__(self, town: Town, role_of: Roles) -> None:
        self._town = town
        self._role_of = role_of

    async def make(self, topics: Iterable[Topic]) -> dict[Topic, Update]:
        """The state of each topic, or the error in its place; forecasts of one domain are made together."""
        together: dict[tuple[str, str], list[Topic]] = {}
        for topic in topics:
            together.setdefault((topic.channel, topic.domain), []).append(topic)
        updates: dict[Topic, Update] = {}
        for (channel, domain), chosen in together.items():
            windows = self._town.windows(domain)
            if windows is None:
                why = self._town.why_not(domain)
                updates |= {topic: _refused(topic, why, time.time()) for topic in chosen}
            elif channel == READINGS:
                updates |= {topic: _readings(topic, windows) for topic in chosen}
            else:
                updates |= await self._forecasts(CHANNELS[channel], chosen, windows)
        return updates

    async def _forecasts(self, channel: Channel, topics: Sequence[Topic], windows: WindowSource) -> dict[Topic, Update]:
        api = APIS[channel.domain]
        loaded = frozenset(release.champion.target.name for release in self._town.releases(channel.domain))
        prepared = await asyncio.gather(*(windows.prepared(topic.site) for topic in topics), return_exceptions=True)
        updates: dict[Topic, Update] = {}
        asked: dict[Topic, Any] = {}
        for topic, window in zip(topics, prepared, strict=True):
            if isinstance(window, TowncastError):
                updates[topic] = _refused(topic, window, windows.now())
            elif isinstance(window, BaseException):
                raise window
            else:
                request = channel.request(windows.memory.site(topic.site), loaded.intersection(window.records))
                asked[topic] = api.request.model_validate_json(msgspec.json.encode(request))
        for topic, outcome in zip(asked, await answer_many(api, self._town, list(asked.values())), strict=True):
            updates[topic] = (
                self._forecast(channel, topic, outcome, windows.now())
                if isinstance(outcome, Answered)
                else _refused(topic, outcome, windows.now())
            )
        return updates

    def _forecast(self, channel: Channel, topic: Topic, answered: Answered, now_s: float) -> Update:
        reply, first = answered.reply, answered.results[0].forecast
        roles = dict.fromkeys(map(self._role, answered.results))
        content = {
            **channel.first_hour(reply["predictions"]),
            "valid_at": utc_text(int(first.origins[0]) + first.step_s),
            "forecast": reply["predictions"],
            "model_version": reply["model_version"],
            "role": ", ".join(roles),
            "quality": reply["quality"],
        }
        says = (reply["predictions"], reply["model_version"], content["role"], reply["quality"]["lowered_by"])
        return _written(topic, content, headline=channel.headline, now_s=now_s, says=says)

    def _role(self, result: ForecastResult) -> str:
        return self._role_of(result.card.domain, result.card.target, result.forecast.model)


def _readings(topic: Topic, windows: WindowSource) -> Update:
    try:
        content = recent_readings(topic.site, windows)
    except TowncastError as error:
        return _refused(topic, error, windows.now())
    return _written(topic, content, headline="value", now_s=windows.now(), says=content)


def recent_readings(site: str, windows: WindowSource) -> dict[str, Any]:
    """The newest reading of a site's first target that has any, and those of the last two days.

    Raises:
        UnknownNameError: The site is not known.
        NotEnoughDataError: It has no reading of any target.
    """
    domain, history = windows.domain, windows.memory.history(site)
    steps = _RECENT_H * _HOUR_S // domain.step_s
    known = history.value_TK[: domain.history_steps]
    for channel, target in enumerate(domain.targets):
        finite = np.flatnonzero(np.isfinite(known[:, channel]))
        if len(finite):
            back = len(known) - 1 - int(finite[-1])
            return {
                "value": round(float(known[finite[-1], channel]), _DECIMALS),
                "quantity": target.name,
                "unit": target.unit,
                "valid_at": utc_text(history.valid_until_s - back * domain.step_s),
                "recent": {
                    "until": utc_text(history.valid_until_s),
                    "step_s": domain.step_s,
                    "values": {
                        quantity.name: _rounded(known[-steps:, index]) for index, quantity in enumerate(domain.targets)
                    },
                },
            }
    raise no_reading(domain, domain.target.name, site)


def _rounded(values: Any) -> list[float | None]:
    return [round(value, _DECIMALS) if value == value else None for value in values.tolist()]


def _place(topic: Topic) -> dict[str, str]:
    place = {id_name(DOMAINS[topic.domain]): topic.site}
    return {"domain": topic.domain, **place} if topic.channel == READINGS else place


def _written(topic: Topic, content: dict[str, Any], *, headline: str, now_s: float, says: Any) -> Update:
    """An update whose `data` says `content`, and after its headline the change of it."""
    data = {**_place(topic), headline: content[headline], "change_from_previous": None, **content}
    message = {"channel": topic.channel, "timestamp": utc_text(int(now_s)), "data": data}
    before, _, after = msgspec.json.encode(message).decode().partition(f"{_CHANGE}null")
    return Update(says=says, before=before + _CHANGE, after=after, headline=content[headline])


def _refused(topic: Topic, error: TowncastError, now_s: float) -> Update:
    """What is sent of a site while there is nothing else to be said of it."""
    content = refusal(error).content.error.model_dump()
    message = {
        "channel": topic.channel,
        "timestamp": utc_text(int(now_s)),
        "data": _place(topic),
        "error": content,
    }
    return Update(says=(content["code"], content["message"]), before=msgspec.json.encode(message).decode())
