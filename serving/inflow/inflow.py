"""All the ways that readings come in: the desk, and the brokers that it follows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from serving.inflow.desk import ReadingDesk, WindowsOf
from serving.inflow.lease import Lease
from serving.inflow.mqtt import MqttReadings
from serving.inflow.nats import NatsReadings
from serving.inflow.settings import InflowSettings
from serving.metrics import Metrics

_LOG = logging.getLogger(__name__)


class Inflow:
    """The desk of a process, and MQTT and NATS where the settings name them.

    Of several workers on one machine one follows the brokers at a time: `states` of the others say `standby`.

    Args:
        settings: Folders, addresses, limits.
        metrics: Counts what comes in.
        windows: Where the windows of a domain are, such as `Town.windows`.
        now: The present [s since 1970].
    """

    def __init__(
        self,
        settings: InflowSettings,
        metrics: Metrics,
        *,
        windows: WindowsOf | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.desk = ReadingDesk(settings, metrics, windows=windows, now=now)
        self._followers: dict[str, MqttReadings | NatsReadings] = {}
        if settings.mqtt_url:
            self._followers["mqtt"] = MqttReadings(self.desk, settings)
        if settings.nats_url:
            self._followers["nats"] = NatsReadings(self.desk, settings)
        self._lease = Lease(settings.readings_dir / ".inflow.lock")
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follow the brokers from now on, whether they are there or not."""
        if self._followers and self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        await self._lease.acquire()
        await asyncio.gather(*(self._keep(name, follower) for name, follower in self._followers.items()))

    async def _keep(self, name: str, follower: MqttReadings | NatsReadings) -> None:
        """Follow a broker whatever happens: one fault must not end the readings of a town."""
        while True:
            try:
                await follower.follow()
            except Exception:  # tried again: what is not acknowledged comes again
                _LOG.exception("Readings from %s cannot be followed", name)
                await asyncio.sleep(1.0)

    def states(self) -> dict[str, str]:
        """Of each broker that the settings name `following`, `waiting` for it, or `standby` for another worker."""
        if not self._lease.held:
            return dict.fromkeys(self._followers, "standby")
        return {name: "following" if follower.connected else "waiting" for name, follower in self._followers.items()}

    async def close(self) -> None:
        """Follow no more, and store what has come; a second call does nothing."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        await self.desk.close()
        self._lease.release()
