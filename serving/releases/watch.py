"""Looks at the registry's aliases again and again, in a thread: MLflow is slow to import and to ask."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from features.errors import TowncastError
from serving.releases.plans import Standing
from serving.releases.registry import ReleaseRegistry

_LOG = logging.getLogger(__name__)
_JOIN_S = 2.0
_REST_NS = 2_000_000_000


def at_rest(stamp: tuple[tuple[int, int, int], ...] | None, now_ns: int) -> bool:
    """Whether files were written long enough ago for their stamp to tell the next write."""
    return stamp is not None and all(now_ns - written_ns > _REST_NS for _, written_ns, _ in stamp)


class AliasWatch:
    """What the registry says, as far as it could be asked last.

    Args:
        registry: Is asked.
        names: Registered models that matter.
        every_s: Time between two looks [s].
    """

    def __init__(self, registry: ReleaseRegistry, names: Sequence[str], *, every_s: float) -> None:
        self.registry = registry
        self.names = tuple(names)
        self.every_s = every_s
        self.standings: Mapping[str, Standing] = {}
        self.away: TowncastError | None = None
        self.looks = 0
        self._told_faults: dict[str, tuple[str, ...]] = {}
        self._ended, self._now = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, changed: Callable[[], None]) -> None:
        """Look from now on; `changed` is called on the event loop after the first look and after each that has news."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(changed)
            except RuntimeError:
                self._ended.set()  # the loop is closed

        # A daemon: a registry that does not answer for minutes must not hold the process at its end.
        self._thread = threading.Thread(target=self._keep_looking, args=(tell,), name="alias-watch", daemon=True)
        self._thread.start()

    def look_now(self) -> None:
        """Look at once: something was changed."""
        self._now.set()

    async def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._now.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, _JOIN_S)

    def _keep_looking(self, tell: Callable[[], None]) -> None:
        seen = None
        while not self._ended.is_set():
            self._now.clear()
            stamp = self.registry.stamp()
            if stamp is None or stamp != seen or self.away is not None:
                news = self._look()
                # Only a look that succeeded makes the next one needless, and only at files that were at rest: two
                # writes within one tick of the file system's clock leave the same stamp.
                seen = stamp if self.away is None and at_rest(stamp, time.time_ns()) else None
                if news and not self._ended.is_set():
                    tell()
            self._now.wait(self.every_s)

    def _look(self) -> bool:
        """Ask the registry; whether there is anything new."""
        first = self.looks == 0
        try:
            return self._compared(first)
        finally:
            # Not before: the first look imports MLflow for seconds, and until then nothing is known.
            self.looks += 1

    def _compared(self, first: bool) -> bool:
        try:
            found = self.registry.standings(self.names)
        except TowncastError as error:
            return self._not_there(error) or first
        except Exception as error:  # MLflow's plugins raise what they like; the watch must live on
            _LOG.exception("The registry of models cannot be read")
            remedy = "See the log for the reason."
            return self._not_there(TowncastError("The registry cannot be read", found=repr(error), remedy=remedy))
        back = self.away is not None
        if back:
            _LOG.info("The registry of models answers again")
        self.away = None
        self._tell_faults(found)
        changed = found != self.standings
        self.standings = found
        return changed or back or first

    def _not_there(self, error: TowncastError) -> bool:
        known = self.away is not None
        if not known:
            _LOG.warning("%s", error)
        self.away = error
        return not known

    def _tell_faults(self, found: Mapping[str, Standing]) -> None:
        for name, standing in found.items():
            if standing.faults and self._told_faults.get(name) != standing.faults:
                _LOG.warning("%s: %s", name, "; ".join(standing.faults))
            self._told_faults[name] = standing.faults
