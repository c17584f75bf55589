"""All clients of the WebSocket, and the one task that makes what they are sent."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from pydantic import ValidationError

from features.errors import InvalidParameterError, TowncastError
from serving.errors import refusal
from serving.live.channels import READINGS, Topic
from serving.live.client import RESTART, Client
from serving.live.messages import ClientMessage, Filters, read_message
from serving.live.overview import now_s, overview
from serving.live.selection import channel_domains, select, sites_of
from serving.live.settings import LiveSettings
from serving.live.updates import Update, UpdateMaker
from serving.news import Event, VersionChanged, WindowsChanged
from serving.text import utc_text
from serving.town import Town

_LOG = logging.getLogger(__name__)
# Forecasts that are made together.
_MOST_TOGETHER = 64
_CLOSE_S = 5.0


class LiveHub:
    """Sends forecasts and readings to whoever follows them, as they change.

    News only mark what must be made anew. One task makes it, once for all clients and only where somebody follows, and
    each client's own task sends it: neither news nor other clients ever wait for a client.

    Args:
        town: Forecasts, and tells the news.
        settings: Limits.
    """

    def __init__(self, town: Town, settings: LiveSettings) -> None:
        self.town = town
        self.settings = settings
        self.clients: set[Client] = set()
        self._followers: dict[Topic, set[Client]] = {}
        self._present: dict[Topic, Update] = {}
        self._marked: dict[Topic, None] = {}
        # Sites of a domain that followers of everything follow already.
        self._known_sites: dict[str, set[str]] = {}
        self._roles: dict[tuple[str, str], dict[str, str]] = {}
        self._maker = UpdateMaker(town, self.role_of)
        self._wake = asyncio.Event()
        self._making: asyncio.Task[None] | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Listen to the town's news from now on; to be called before the town starts, so that no role is missed."""
        self._stop_listening = self.town.news.listen(self._on_news)
        self._making = asyncio.get_running_loop().create_task(self._keep_making())

    async def close(self) -> None:
        """Say goodbye to all clients, and stop."""
        self._stop_listening()
        for client in self.clients:
            client.end(RESTART, "the API stops")
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSE_S
        while self.clients and loop.time() < until:
            await asyncio.sleep(0.01)

    def role_of(self, domain: str, target: str, version: str) -> str:
        """The roles of a model version, such as `champion`; "" where it has none any more."""
        roles = self._roles.get((domain, target), {})
        return ", ".join(role for role, known in roles.items() if known == version)

    def hear(self, client: Client, message: str | bytes) -> None:
        """Do what a client says, and answer it."""
        said: ClientMessage | None = None
        try:
            said = read_message(message)
            answer = self._do(client, said)
        except (ValidationError, TowncastError) as error:
            request_id = said.request_id if said is not None else None
            refused = refusal(error, request_id=request_id, fields=ClientMessage.model_fields)
            client.answer(refused.content.model_dump_json())
            return
        if said.request_id is not None:
            answer["request_id"] = said.request_id
        client.answer(msgspec.json.encode(answer).decode())

    def forget(self, client: Client) -> None:
        """A client is gone."""
        self.clients.discard(client)
        for topic in tuple(client.topics):
            self._leave(client, topic)

    def _do(self, client: Client, said: ClientMessage) -> dict[str, Any]:
        if said.action == "subscribe":
            return self._subscribe(client, said.channel or "", said.filters)
        if said.action == "unsubscribe":
            return self._unsubscribe(client, said.channel or "", said.filters)
        if said.action == "list":
            return {"event": "list", **overview(self.town).model_dump(exclude_none=True)}
        return {"event": "pong", "timestamp": utc_text(int(now_s(self.town)))}

    def _subscribe(self, client: Client, channel: str, filters: Filters) -> dict[str, Any]:
        topics, every_s = select(self.town, channel, filters), filters.every_s()
        total = len(client.topics.keys() | topics)
        if total > self.settings.live_subscriptions:
            raise InvalidParameterError(
                parameter="filters",
                provided=total,
                allowed=f"at most {self.settings.live_subscriptions} sites in all",
                fact="One client cannot follow so many sites",
                remedy="Name fewer, or set TOWNCAST_LIVE_SUBSCRIPTIONS.",
            )
        if not filters.named():
            for domain in channel_domains(self.town, channel):
                client.everything[channel, domain] = every_s
                self._known_sites.setdefault(domain, set(sites_of(self.town, domain)))
        for topic in topics:
            self._follow(client, topic, every_s)
        return {
            "event": "subscribed",
            "channel": channel,
            "sites": [topic.site for topic in topics],
            "update_frequency": filters.update_frequency,
        }

    def _unsubscribe(self, client: Client, channel: str, filters: Filters) -> dict[str, Any]:
        domains = channel_domains(self.town, channel)
        chosen = select(self.town, channel, filters) if filters.named() else tuple(client.topics)
        left = [topic for topic in chosen if topic.channel == channel and topic in client.topics]
        for domain in domains:
            client.everything.pop((channel, domain), None)
        for topic in left:
            self._leave(client, topic)
        return {"event": "unsubscribed", "channel": channel, "sites": [topic.site for topic in left]}

    def _follow(self, client: Client, topic: Topic, every_s: float) -> None:
        client.follow(topic, every_s=every_s)
        self._followers.setdefault(topic, set()).add(client)
        present = self._present.get(topic)
        if present is None:
            self._mark([topic])
        else:
            client.offer(topic, present)

    def _leave(self, client: Client, topic: Topic) -> None:
        client.leave(topic)
        followers = self._followers.get(topic, set())
        followers.discard(client)
        if not followers:
            # Of what nobody follows nothing is kept: it would grow old.
            self._followers.pop(topic, None)
            self._present.pop(topic, None)
            self._marked.pop(topic, None)

    def _mark(self, topics: Iterable[Topic]) -> None:
        self._marked.update(dict.fromkeys(topics))
        self._wake.set()

    def _on_news(self, event: Event) -> None:
        """Mark what is to be made anew; called on the event loop by whoever has the news, who must not wait."""
        if isinstance(event, VersionChanged):
            roles = self._roles.setdefault((event.domain, event.target), {})
            roles[event.role] = event.model_version
            self._mark(topic for topic in self._followers if topic.channel == event.domain)
            return
        channels = (event.domain, READINGS) if isinstance(event, WindowsChanged) else (event.domain,)
        self._follow_new_sites(event.domain, event.sites)
        if self._followers:
            topics = (Topic(channel, event.domain, site) for channel in channels for site in event.sites)
            self._mark(topic for topic in topics if topic in self._followers)

    def _follow_new_sites(self, domain: str, sites: frozenset[str]) -> None:
        """Who follows all sites of a channel follows those that come later too."""
        known = self._known_sites.get(domain)
        if known is None or not (fresh := sites - known):
            return
        known |= fresh
        for client in self.clients:
            for channel in (domain, READINGS):
                every_s = client.everything.get((channel, domain))
                for site in fresh if every_s is not None else ():
                    topic = Topic(channel, domain, site)
                    if topic not in client.topics and len(client.topics) < self.settings.live_subscriptions:
                        self._follow(client, topic, every_s or 0.0)

    async def _keep_making(self) -> None:
        """Make what is marked; what is marked again meanwhile is made again, once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._marked:
                topics = list(itertools.islice(self._marked, _MOST_TOGETHER))
                for topic in topics:
                    del self._marked[topic]
                try:
                    self._publish(await self._maker.make(topics))
                except Exception:  # one site's fault must not end the updates of all others
                    _LOG.exception("Updates of %d topics, such as %s, cannot be made", len(topics), topics[0])
                await asyncio.sleep(0)

    def _publish(self, updates: Mapping[Topic, Update]) -> None:
        for topic, update in updates.items():
            followers = self._followers.get(topic)
            before = self._present.get(topic)
            if not followers or (before is not None and before.says == update.says):
                continue
            self._present[topic] = update
            for client in followers:
                client.offer(topic, update)
