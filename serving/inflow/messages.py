"""A message of a broker -> items for the desk, and what becomes of messages that the stores cannot take now."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from features.errors import TowncastError
from serving.inflow.desk import ReadingDesk
from serving.reactor_twin.broker import backoff_s

_LOG = logging.getLogger(__name__)
# A message is an item, or a list of them; a longer one is refused as a whole.
_MOST_ITEMS = 10_000
_MOST_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a broker delivered.

    Attributes:
        payload: JSON, if all is well.
        given: Fields that its topic says.
    """

    payload: bytes
    given: Mapping[str, str]


def items_in(message: Message) -> list[Any]:
    """The items of a message; of one that cannot be read its raw bytes, which the desk quarantines."""
    if len(message.payload) > _MOST_BYTES:
        return [message.payload]
    try:
        content = from_json(message.payload)
    except (ValueError, RecursionError):
        return [message.payload]
    if not isinstance(content, list):
        return [content]
    return content if 1 <= len(content) <= _MOST_ITEMS else [message.payload]


async def deliver(desk: ReadingDesk, messages: Sequence[Message], *, transport: str) -> None:
    """Give messages to the desk, again and again until it has stored them."""
    items: list[Any] = []
    given: list[Mapping[str, str]] = []
    for message in messages:
        found = items_in(message)
        items += found
        given += [message.given] * len(found)
    for failures in itertools.count():
        try:
            await desk.take(items, transport=transport, given=given)
        except TowncastError as error:
            if failures == 0:
                _LOG.warning("Readings from %s cannot be stored, and are tried again: %s", transport, error)
            await asyncio.sleep(backoff_s(failures))
        else:
            return
