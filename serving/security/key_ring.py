"""All API keys in memory, kept in step with their database: asking who calls needs no input or output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from features.errors import StorageError, TowncastError
from serving.request_context import Caller
from serving.security.keys import ApiKey, KeyStore

_LOG = logging.getLogger(__name__)
# A new or revoked key is known after this time and the time to read it [s].
REFRESH_S = 1.0
# The last use is for people who tidy up: to the minute is enough.
_NOTE_USES_S = 60.0


class HeldKey:
    """A key as it is asked for; the only thing in it that changes is when it was last used."""

    __slots__ = ("caller", "digest", "key", "last_used_s")

    def __init__(self, key: ApiKey, *, requests_per_minute: int) -> None:
        own = key.requests_per_minute
        self.key = key
        self.digest = bytes.fromhex(key.digest)
        self.last_used_s = 0.0
        self.caller = Caller(
            name=key.name, scopes=key.scopes, requests_per_minute=requests_per_minute if own is None else own
        )


class KeyRing:
    """The keys of a store, read again whenever they change.

    If the store cannot be read, the last state serves on, and what was revoked stays revoked.

    Args:
        store: The database.
        requests_per_minute: Rate limit of keys without their own, 0 for none.
        refresh_s: Time between two looks at the store [s].
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        requests_per_minute: int,
        refresh_s: float = REFRESH_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self._requests_per_minute = requests_per_minute
        self._refresh_s = refresh_s
        self._clock = clock
        self._held: dict[str, HeldKey] = {}
        self._revision = -1
        self._unread: StorageError | None = None
        self._noted_s = clock()
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys, and begin to keep in step."""
        await self._refresh()
        if not self._held and self._unread is None:
            _LOG.warning("There are no API keys yet: make one with `towncast keys add NAME --scope predict`")
        self._refreshing = asyncio.create_task(self._keep_refreshing())

    async def close(self) -> None:
        """Write down the last uses, and let go of the store."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        with contextlib.suppress(TowncastError):
            await asyncio.to_thread(self._note_uses)
        self.store.close()

    def find(self, key_id: str) -> HeldKey | None:
        """The key of this id.

        Raises:
            StorageError: The keys could not be read yet.
        """
        if self._revision < 0 and self._unread is not None:
            raise self._unread
        return self._held.get(key_id)

    @property
    def in_step(self) -> bool:
        """Whether the last look at the store succeeded."""
        return self._unread is None

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_s)
            await self._refresh()

    async def _refresh(self) -> None:
        """Look at the store, and take over what changed."""
        try:
            read = await asyncio.to_thread(self._look)
        except TowncastError as error:
            if self._unread is None:
                kept = f"the {len(self._held)} known ones hold on" if self._revision >= 0 else "none can be used"
                _LOG.warning("%s; %s", error, kept)
            self._unread = error if isinstance(error, StorageError) else _unusable(error)
            return
        if self._unread is not None:
            _LOG.warning("The API keys can be read again")
            self._unread = None
        if read is not None:
            self._revision, keys = read
            self._held = {key.key_id: self._hold(key) for key in keys}

    def _look(self) -> tuple[int, list[ApiKey]] | None:
        """Revision and keys, if they changed. Runs in a thread."""
        # The revision first: a change in between is read now, and once more at the next look.
        revision = self.store.revision()
        if revision == 0 and self._revision > 0:
            raise StorageError(
                "The database of the API keys is gone", remedy="Restore it; until then the keys stay as they were."
            )
        changed = self.store.keys() if revision != self._revision else None
        if self._clock() - self._noted_s >= _NOTE_USES_S:
            self._note_uses()
        return None if changed is None else (revision, changed)

    def _hold(self, key: ApiKey) -> HeldKey:
        held = HeldKey(key, requests_per_minute=self._requests_per_minute)
        before = self._held.get(key.key_id)
        held.last_used_s = 0.0 if before is None else before.last_used_s
        return held

    def _note_uses(self) -> None:
        since_s, self._noted_s = self._noted_s, self._clock()
        used = {key_id: int(held.last_used_s) for key_id, held in self._held.items() if held.last_used_s >= since_s}
        self.store.note_uses(used)


def _unusable(error: TowncastError) -> StorageError:
    return StorageError(error.fact, found=error.found, remedy=error.remedy)
