"""What clients of the WebSocket may say. Strict: nothing is coerced, unknown fields are refused."""

from __future__ import annotations

import re

from pydantic import Field

from features.errors import InvalidParameterError
from features.registry import nearest_names
from serving.errors import malformed
from serving.schemas import RequestId, ShortName, SiteName, StrictRequest

ACTIONS = ("subscribe", "unsubscribe", "list", "ping")
_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_LONGEST_S = 3600
_FREQUENCY = re.compile(r"([1-9][0-9]{0,3})([smh])", re.ASCII)
_Names = tuple[SiteName, ...]


class Filters(StrictRequest):
    """Which sites, and how often. Without any names a channel's filter means all its sites."""

    roads: _Names | None = None
    stations: _Names | None = None
    zones: _Names | None = None
    control_points: _Names | None = None
    sites: _Names | None = Field(default=None, description="Names of any of the channel's sites.")
    update_frequency: ShortName | None = Field(
        default=None, description="Shortest time between two updates of a site, 1s to 1h.", examples=["30s", "5m"]
    )

    def named(self) -> dict[str, tuple[str, ...]]:
        """The names by filter, of those that were given."""
        filters = ("roads", "stations", "zones", "control_points", "sites")
        return {name: names for name in filters if (names := getattr(self, name)) is not None}

    def every_s(self) -> float:
        """Shortest time between two updates of a site, 0 where they are sent as they come [s].

        Raises:
            InvalidParameterError: It is no time from one second to one hour.
        """
        if self.update_frequency is None:
            return 0.0
        found = _FREQUENCY.fullmatch(self.update_frequency)
        every_s = int(found[1]) * _UNITS_S[found[2]] if found else 0
        if not 1 <= every_s <= _LONGEST_S:
            raise InvalidParameterError(
                parameter="filters.update_frequency",
                provided=self.update_frequency,
                allowed='a whole number of seconds, minutes or hours from "1s" to "1h", such as "30s"',
                fact="The update frequency is not one that can be had",
                remedy='Use "1s" to "1h", or leave it out to get updates as they come.',
            )
        return float(every_s)


class ClientMessage(StrictRequest):
    """One message of a client."""

    action: ShortName
    channel: ShortName | None = None
    filters: Filters = Filters()
    request_id: RequestId | None = Field(default=None, description="Echoed in the answer.")


def read_message(message: str | bytes) -> ClientMessage:
    """A client's message, as it came.

    Raises:
        ValidationError: It is not JSON, or not as the schema says.
        MalformedBodyError: It is binary.
        InvalidParameterError: There is no such action, or it needs a channel.
    """
    if isinstance(message, bytes):
        raise malformed("a binary message")
    said = ClientMessage.model_validate_json(message)
    if said.action not in ACTIONS:
        raise InvalidParameterError(
            parameter="action",
            provided=said.action,
            allowed=ACTIONS,
            fact="There is no such action",
            remedy=f"Use {', '.join(ACTIONS)}.",
            nearest=nearest_names(said.action, ACTIONS),
        )
    if said.action in ("subscribe", "unsubscribe") and said.channel is None:
        raise InvalidParameterError(
            parameter="channel",
            provided=None,
            allowed="the name of a channel",
            fact=f"To {said.action} takes a channel",
            remedy='Name one; {"action": "list"} tells which there are.',
        )
    return said
