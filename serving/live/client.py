"""One client: what it follows, what waits to be sent to it, and the task that sends it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serving.live.channels import Topic
from serving.live.updates import Update

# IANA's registry of close codes; 1012 is also what the server itself says when it stops.
POLICY, RESTART, TRY_LATER = 1008, 1012, 1013
# Answers that wait for a client that does not take them.
_MOST_ANSWERS = 64


@dataclass(slots=True, kw_only=True)
class _Followed:
    """A topic that a client follows.

    Attributes:
        every_s: Shortest time between two updates [s].
        update: The last one that is not sent yet.
        ticket: Of its place in one of the queues, 0 where it stands in none.
        sent_at: When the last one was sent [s, monotonic].
        headline: What that one said.
    """

    every_s: float
    update: Update | None = None
    ticket: int = 0
    sent_at: float = -float("inf")
    headline: float | None = None


class Client:
    """What is known of one client.

    At most one update of a topic waits: a newer one takes its place. So what waits is bounded by what is followed,
    however slowly the client reads and however often news come.

    Args:
        send: Sends a text; returns once there is room for the next.
        send_timeout_s: A client that takes longer is dropped [s].
    """

    def __init__(self, send: Callable[[str], Awaitable[None]], *, send_timeout_s: float) -> None:
        self.topics: dict[Topic, _Followed] = {}
        # Channel and domain of which every site is followed, those that come later too, and how often [s].
        self.everything: dict[tuple[str, str], float] = {}
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._send = send
        self._send_timeout_s = send_timeout_s
        self._answers: deque[str] = deque()
        self._due: deque[tuple[int, Topic]] = deque()
        self._later: list[tuple[float, int, Topic]] = []
        self._tickets = itertools.count(1)
        self._wake = asyncio.Event()

    def end(self, code: int, reason: str) -> None:
        """Have the connection closed, by a code of RFC 6455."""
        if not self.ended.done():
            self.ended.set_result((code, reason))

    def answer(self, text: str) -> None:
        """Send an answer, before any update."""
        if len(self._answers) >= _MOST_ANSWERS:
            self.end(POLICY, "answers are not read")
            return
        self._answers.append(text)
        self._wake.set()

    def follow(self, topic: Topic, *, every_s: float) -> None:
        """Follow a topic from now on; what is sent next is its present state, whatever was sent before."""
        followed = self.topics.get(topic)
        if followed is None:
            self.topics[topic] = _Followed(every_s=every_s)
            return
        followed.every_s, followed.sent_at, followed.ticket = every_s, -float("inf"), 0

    def leave(self, topic: Topic) -> None:
        """Follow a topic no more; an update that waits is not sent."""
        self.topics.pop(topic, None)

    def offer(self, topic: Topic, update: Update) -> None:
        """Send an update as soon as it is due, in place of one that waits."""
        followed = self.topics.get(topic)
        if followed is None:
            return
        followed.update = update
        if followed.ticket:
            return
        followed.ticket = next(self._tickets)
        due_at = followed.sent_at + followed.every_s
        if due_at <= asyncio.get_running_loop().time():
            self._due.append((followed.ticket, topic))
        else:
            heapq.heappush(self._later, (due_at, followed.ticket, topic))
            self._forget_stale()
        self._wake.set()

    def _forget_stale(self) -> None:
        """Keep the queue as short as what is followed, for a client that follows and leaves without end."""
        if len(self._later) > 2 * len(self.topics) + _MOST_ANSWERS:
            self._later = [place for place in self._later if self._stands(place[2], place[1])]
            heapq.heapify(self._later)

    def _stands(self, topic: Topic, ticket: int) -> bool:
        followed = self.topics.get(topic)
        return followed is not None and followed.ticket == ticket

    async def keep_sending(self) -> None:
        """Send answers at once and updates as they are due, until cancelled or until the client is too slow."""
        while True:
            text = self._next()
            if text is None:
                await self._pause()
                continue
            try:
                async with asyncio.timeout(self._send_timeout_s):
                    await self._send(text)
            except TimeoutError:
                self.end(TRY_LATER, "too slow")
                return
            # A send that finds room does not wait, and thousands of them would hold up everybody else.
            await asyncio.sleep(0)

    async def _pause(self) -> None:
        """Until there is something new, or something is due."""
        self._wake.clear()
        wait_s = self._later[0][0] - asyncio.get_running_loop().time() if self._later else None
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    def _next(self) -> str | None:
        """What is to be sent now, None for nothing."""
        if self._answers:
            return self._answers.popleft()
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            _, ticket, topic = heapq.heappop(self._later)
            self._due.append((ticket, topic))
        while self._due:
            ticket, topic = self._due.popleft()
            if self._stands(topic, ticket):
                return self._taken(self.topics[topic], now)
        return None

    def _taken(self, followed: _Followed, now: float) -> str:
        """The text of what waits, which is taken for sent."""
        update, previous = followed.update, followed.headline
        assert update is not None
        followed.update, followed.ticket, followed.sent_at = None, 0, now
        if update.headline is not None:
            followed.headline = update.headline
        return update.text(previous)
