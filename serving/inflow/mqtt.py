"""Readings over MQTT 5: a topic per domain, site and quantity, acknowledged once they are stored."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from serving.inflow.desk import ReadingDesk
from serving.inflow.messages import Message, deliver
from serving.inflow.settings import InflowSettings
from serving.reactor_twin.broker import backoff_s

_LOG = logging.getLogger(__name__)
TRANSPORT = "mqtt"
_PARTS = ("domain", "site", "quantity")
# So many messages may be on their way without an acknowledgement: all that a write takes together.
_IN_FLIGHT = 1000
_KEEP_ALIVE_S = 15
_ANSWER_WITHIN_S = 5.0
# Reason codes from here on say no.
_REFUSED = 128
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttReadings:
    """Follows `<topic>/<domain>/<site>/<quantity>`; a site's name is percent-encoded there.

    The broker keeps the session, and what comes meanwhile, while we are away. A message is acknowledged after the desk
    has stored or quarantined it, so that it comes again if the process dies before.

    Args:
        desk: Takes the readings.
        settings: Where the broker is.
    """

    def __init__(self, desk: ReadingDesk, settings: InflowSettings) -> None:
        self._desk = desk
        self._settings = settings
        self.connected = False

    async def follow(self) -> None:
        """Take readings until cancelled; a broker that is away is tried again."""
        failures = 0
        while True:
            try:
                async with self._client() as client:
                    await self._subscribe(client)
                    failures = 0
                    await self._take_all(client)
            except (aiomqtt.MqttError, OSError) as error:
                if failures == 0:
                    _LOG.warning("Waiting for the MQTT broker at %s: %s", self._shown_url, error)
            finally:
                self.connected = False
            await asyncio.sleep(backoff_s(failures))
            failures += 1

    @property
    def _shown_url(self) -> str:
        parts = urlsplit(self._settings.mqtt_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _client(self) -> aiomqtt.Client:
        settings, address = self._settings, urlsplit(self._settings.mqtt_url)
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = int(settings.mqtt_session_h * 3600)
        wanted.ReceiveMaximum = _IN_FLIGHT
        client = aiomqtt.Client(
            address.hostname or "",
            address.port or _PORTS[address.scheme],
            username=settings.mqtt_username or None,
            password=settings.mqtt_password or None,
            identifier=settings.mqtt_client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=wanted,
            keepalive=_KEEP_ALIVE_S,
            timeout=_ANSWER_WITHIN_S,
            tls_context=self._tls() if address.scheme == "mqtts" else None,
        )
        _paho(client).manual_ack_set(True)
        return client

    def _tls(self) -> ssl.SSLContext:
        trusted = self._settings.mqtt_ca_file
        return ssl.create_default_context(cafile=None if trusted is None else str(trusted))

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        topic = f"{self._settings.mqtt_topic}/+/+/+"
        granted = await client.subscribe(topic, qos=1)
        code = granted[0]
        if (code if isinstance(code, int) else code.value) >= _REFUSED:
            raise aiomqtt.MqttError(f"it refuses the subscription to {topic}: {code}")
        self.connected = True
        _LOG.info("Following readings at %s", self._shown_url)

    async def _take_all(self, client: aiomqtt.Client) -> None:
        """Take what has come, as much at a time as there is."""
        arriving = client.messages
        async for first in arriving:
            together = [first]
            while len(arriving) and len(together) < _IN_FLIGHT:
                together.append(await anext(arriving))
            await deliver(self._desk, [self._message(one) for one in together], transport=TRANSPORT)
            for one in together:
                _paho(client).ack(one.mid, one.qos)

    def _message(self, message: aiomqtt.Message) -> Message:
        payload = message.payload
        parts = str(message.topic).removeprefix(f"{self._settings.mqtt_topic}/").split("/")
        given = dict(zip(_PARTS, (unquote(part) for part in parts), strict=True))
        return Message(payload=payload if isinstance(payload, bytes) else str(payload or "").encode(), given=given)


def _paho(client: aiomqtt.Client) -> Any:
    """The client beneath: aiomqtt itself has no way to acknowledge by hand."""
    return client._client
