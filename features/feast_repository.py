"""Feast, generated from a `Domain`: offline for training, point in time on both clocks; online for serving.

Offline, each input quantity is a feature view whose entity is a site *and* a moment: the moment says when a value is
true, and Feast's point-in-time join (event and created timestamp, both cut off) says whether it was known. Online, one
view per domain holds each site's last history, pushed when readings arrive.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import NotEnoughDataError
from features.feast_definitions import definitions
from features.feast_definitions import training_service as training_service
from features.files import make_folder, whole_file
from features.online_history import OnlineHistory, histories_of, window_of, with_neighbours
from features.online_news import Told
from features.online_store import OnlineStore, blobs_of, online_store_config, open_news
from features.readings import KEY_COLUMNS, epoch_s
from features.settings import StorageSettings
from features.store import ReadingStore
from features.stored_files import one_writer
from features.vocabulary import Domain, Int64Array, Window
from features.windows import Panel, build_panel

if TYPE_CHECKING:
    from feast import FeatureStore

_PUSH_LOCK = ".push.lock"
# How many sites' readings are in memory at a time: some 20,000 rows each.
_SITES_AT_ONCE = 20
# Changes that begin within so long of each other are read together [s].
_TOGETHER_S = 21600
_MOMENT_TYPE = pa.timestamp("us", tz="UTC")
_OFFLINE_SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("valid_at", _MOMENT_TYPE),
        ("available_at", _MOMENT_TYPE),
        ("value", pa.float64()),
        ("valid_at_s", pa.int64()),
        ("available_at_s", pa.int64()),
    ]
)


def open_repository(settings: StorageSettings, domain: Domain) -> FeatureRepository:
    """The repository of a domain where the settings say; nothing is opened yet."""
    return FeatureRepository(
        settings.feast_dir,
        ReadingStore(settings.readings_dir, domain),
        online_store_url=settings.online_store_url,
    )


class FeatureRepository:
    """The Feast repository of one domain, over its reading store.

    Args:
        root: Folder of the repository (registry, offline Parquet, SQLite online store); made by `apply`.
        readings: Where the readings are.
        online_store_url: Redis that holds the online store; empty for SQLite in the folder, see `StorageSettings`.
    """

    def __init__(self, root: Path, readings: ReadingStore, *, online_store_url: str = "") -> None:
        self.readings = readings
        self.domain = readings.domain
        self.folder = root / self.domain.name
        self._online_store_url = online_store_url
        self._news = open_news(online_store_url, self.domain.name, folder=self.folder)

    @functools.cached_property
    def _store(self) -> FeatureStore:
        from feast import FeatureStore, RepoConfig

        make_folder(self.folder)
        config = RepoConfig(
            project="towncast",
            provider="local",
            registry=str(self.folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store=online_store_config(self._online_store_url, folder=self.folder),
            entity_key_serialization_version=3,
        )
        return FeatureStore(config=config)

    @functools.cached_property
    def _online(self) -> OnlineStore:
        return OnlineStore(self.domain, self._store, f"{self.domain.name}_window")

    def exists(self) -> bool:
        """Whether `apply` was ever called."""
        return (self.folder / "registry.db").exists()

    def apply(self) -> None:
        """Write the offline sources from the reading store and register entities, views, push source and services.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._write_offline_sources()
        objects = definitions(self.domain, source_path=self._source_path, snapshot_path=self._snapshot_path)
        if not self._snapshot_path.exists():
            self._write_snapshot(self._rows({}))
        self._store.apply(objects)
        self._let_read_while_written()

    def _let_read_while_written(self) -> None:
        """SQLite's write-ahead log: a worker that reads does not wait for one that writes. The file keeps that."""
        path = self.folder / "online.db"
        if path.exists():
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")

    def _source_path(self, quantity: str) -> Path:
        return self.folder / "offline" / f"{quantity}.parquet"

    @property
    def _snapshot_path(self) -> Path:
        return self.folder / "offline" / "snapshot.parquet"

    def _write_offline_sources(self) -> None:
        for quantity in self.domain.inputs:
            frame = self.readings.readings(quantities=[quantity.name], columns=("value",))
            frame = frame.drop(columns="quantity").assign(
                valid_at_s=epoch_s(frame["valid_at"]), available_at_s=epoch_s(frame["available_at"])
            )
            _write_parquet(frame, _OFFLINE_SCHEMA, self._source_path(quantity.name))

    def history(self, *, as_of: pd.Timestamp | None = None) -> pd.DataFrame:
        """All readings of the inputs that were known by `as_of`, every revision, by Feast's point-in-time join.

        Feast is asked about each moment at each time that something about it became known.

        Returns:
            Key columns and `value`.

        Raises:
            NotEnoughDataError: There are no readings.
        """
        inputs = [quantity.name for quantity in self.domain.inputs]
        keys = self.readings.readings(quantities=inputs, available_by=as_of, columns=())
        if keys.empty:
            raise NotEnoughDataError(
                f"The reading store holds no readings of {self.domain.name}",
                found=str(self.readings.folder),
                remedy=f"Ingest some with `towncast ingest {self.domain.name} FILE`.",
            )
        asked = keys[["site", "valid_at", "available_at"]].drop_duplicates()
        entities = pd.DataFrame(
            {
                "site": asked["site"],
                "valid_at_s": epoch_s(asked["valid_at"]),
                "event_timestamp": asked["available_at"].astype("datetime64[ns, UTC]"),
            }
        )
        return self._ask(entities)

    def known_at(self, site: str, origin_s: int) -> pd.DataFrame:
        """What was known of a site's last history at an origin: Feast's join with the origin as its time.

        Returns:
            Key columns and `value`, one row per moment and quantity.
        """
        moments = origin_s - np.arange(self.domain.history_steps, dtype=np.int64) * self.domain.step_s
        entities = pd.DataFrame(
            {
                "site": site,
                "valid_at_s": moments,
                "event_timestamp": pd.Timestamp(origin_s, unit="s", tz="UTC").as_unit("ns"),
            }
        )
        return self._ask(entities)

    def _ask(self, entities: pd.DataFrame) -> pd.DataFrame:
        service = self._store.get_feature_service(training_service(self.domain))
        wide = self._store.get_historical_features(
            entity_df=entities, features=service, full_feature_names=True, filter_by_created_timestamp=True
        ).to_df()
        # Of two revisions within a second the later one counts.
        wide = wide.sort_values("event_timestamp", kind="stable")
        parts = []
        for quantity in self.domain.inputs:
            prefix = f"{self.domain.name}_{quantity.name}__"
            part = wide[["site", "valid_at_s", f"{prefix}available_at_s", f"{prefix}value"]].dropna()
            parts.append(
                pd.DataFrame(
                    {
                        "site": part["site"],
                        "quantity": quantity.name,
                        "valid_at": _moments(part["valid_at_s"]),
                        "available_at": _moments(part[f"{prefix}available_at_s"]),
                        "value": part[f"{prefix}value"].astype(np.float64),
                    }
                )
            )
        joined = pd.concat(parts, ignore_index=True).drop_duplicates(KEY_COLUMNS, keep="last")
        return joined.sort_values(KEY_COLUMNS, kind="stable", ignore_index=True)

    def panel(
        self, *, sites: list[str] | None = None, beside: list[str] | None = None, as_of: pd.Timestamp | None = None
    ) -> Panel:
        """The offline panel of some sites, or all: each origin from the first to the last reading has a window.

        Args:
            sites: Which, by default all.
            beside: Sites that are in the panel too, as far as their readings lie in the time of the others.
            as_of: Only what was known by then.

        Raises:
            NotEnoughDataError: There are no readings.
        """
        history = self.history(as_of=as_of)
        targets = history[history["quantity"] == self.domain.target.name]
        names = sorted(set(targets["site"].unique()) & set(sites or targets["site"].unique()))
        valid_s = epoch_s(targets.loc[targets["site"].isin(names), "valid_at"])
        if len(valid_s) == 0:
            raise NotEnoughDataError(
                f"There are no readings of {self.domain.target.name}",
                found=f"only {', '.join(sorted(history['quantity'].unique()))}",
                remedy=f"Map a column to {self.domain.target.name} when ingesting.",
            )
        step_s = self.domain.step_s
        return build_panel(
            self.domain,
            [self.readings.site(name) for name in [*names, *(beside or [])]],
            history,
            first_origin_s=-(-int(valid_s.min()) // step_s) * step_s,
            last_origin_s=int(valid_s.max()) // step_s * step_s,
        )

    def materialise(self, *, as_of: pd.Timestamp) -> int:
        """Bring the online store up to what was known of every site at `as_of`; returns the number of sites.

        Raises:
            StorageError: The folder cannot be written.
        """
        with one_writer(self.folder, _PUSH_LOCK):
            histories = self._whole_histories(list(self.readings.sites()), as_of=as_of)
            rows = self._rows(histories)
            self._write_snapshot(rows)
            written = pd.Timestamp(rows["written_at"].max()) if len(rows) else as_of
            # Feast prints what it does; callers show progress in their own way.
            with contextlib.redirect_stdout(io.StringIO()):
                self._store.materialize(
                    start_date=(written - timedelta(days=1)).to_pydatetime(),
                    end_date=(written + timedelta(seconds=1)).to_pydatetime(),
                    feature_views=[f"{self.domain.name}_window"],
                )
            self._news.tell(histories)
        return len(rows)

    def push(self, sites: list[str], *, as_of: pd.Timestamp) -> None:
        """Bring the online store up to what was known of some sites at `as_of`, from all of their readings.

        Raises:
            StorageError: The online store does not answer.
        """
        known = self.readings.sites()
        with one_writer(self.folder, _PUSH_LOCK):
            self._write_online(self._whole_histories([known[name].name for name in sites], as_of=as_of))

    def push_changes(self, readings: pd.DataFrame, *, as_of: pd.Timestamp) -> None:
        """Bring the online store up to readings that were just stored: like `push`, but only their steps are computed.

        Steps from a site's last one on are computed too. Anything else that was stored before, and only became known
        since, takes `push` or `materialise`.

        Args:
            readings: The columns `site` and `valid_at` of what was stored, of known sites.
            as_of: Now.

        Raises:
            StorageError: The online store does not answer.
        """
        first_s = readings.assign(end_s=self._step_end(readings["valid_at"])).groupby("site")["end_s"].min()
        origin_s, step_s = self._step_of(as_of), self.domain.step_s
        with one_writer(self.folder, _PUSH_LOCK):
            before = self._online.read([str(site) for site in first_s.index])
            before = {site: history for site, history in before.items() if history.valid_until_s <= origin_s}
            histories = self._whole_histories([str(site) for site in first_s.index if site not in before], as_of=as_of)
            # Sites whose changes begin at about one time are read together: a straggler sends no other far back.
            groups: dict[int, list[str]] = {}
            for site, history in before.items():
                begin_s = min(int(first_s[site]), history.valid_until_s) - step_s
                groups.setdefault(begin_s // _TOGETHER_S * _TOGETHER_S // step_s * step_s, []).append(site)
            for begin_s, sites in groups.items():
                rows = self._known(sites, origin_s=origin_s, as_of=as_of, start=_moment(begin_s))
                rows = rows[self._step_end(rows["valid_at"]) > begin_s]
                histories |= histories_of(self.domain, rows, origin_s=origin_s, before=before)
            self._write_online(histories)

    def news_since(self, number: int) -> Told:
        """Which sites' histories were written since an earlier answer; a number below 0 knows of none.

        Raises:
            StorageError: The online store does not answer.
        """
        return self._news.since(number)

    def _write_online(self, histories: Mapping[str, OnlineHistory]) -> None:
        if histories:
            self._online.write(histories, written_at=datetime.now(UTC))
            self._news.tell(histories)

    def _step_of(self, moment: pd.Timestamp) -> int:
        return int(moment.timestamp()) // self.domain.step_s * self.domain.step_s

    def _step_end(self, moments: pd.Series) -> Int64Array:
        ends: Int64Array = -(-epoch_s(moments) // self.domain.step_s) * self.domain.step_s
        return ends

    def _known(
        self, sites: list[str], *, origin_s: int, as_of: pd.Timestamp, start: pd.Timestamp | None = None
    ) -> pd.DataFrame:
        """Readings of the inputs that were known, up to one horizon after the origin."""
        return self.readings.readings(
            sites=sites,
            quantities=[quantity.name for quantity in self.domain.inputs],
            start=start,
            end=_moment(origin_s + self.domain.horizon_steps * self.domain.step_s),
            available_by=as_of,
            columns=("value",),
        )

    def _whole_histories(self, sites: list[str], *, as_of: pd.Timestamp) -> dict[str, OnlineHistory]:
        """Histories from all readings."""
        histories: dict[str, OnlineHistory] = {}
        origin_s = self._step_of(as_of)
        for first in range(0, len(sites), _SITES_AT_ONCE):
            together = sites[first : first + _SITES_AT_ONCE]
            rows = self._known(together, origin_s=origin_s, as_of=as_of)
            histories |= histories_of(self.domain, rows, origin_s=origin_s)
        return histories

    def _rows(self, histories: Mapping[str, OnlineHistory]) -> pd.DataFrame:
        """Histories as rows of the window view."""
        now = pd.Timestamp.now("UTC")
        columns = ["site", "valid_until_s", "written_at", *(quantity.name for quantity in self.domain.inputs)]
        rows = [
            {"site": site, "valid_until_s": history.valid_until_s, "written_at": now, **blobs_of(self.domain, history)}
            for site, history in histories.items()
        ]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"valid_until_s": "int64", "written_at": "datetime64[us, UTC]"})

    def _write_snapshot(self, rows: pd.DataFrame) -> None:
        arrays = [(quantity.name, pa.binary()) for quantity in self.domain.inputs]
        schema = [("site", pa.string()), ("valid_until_s", pa.int64()), ("written_at", _MOMENT_TYPE), *arrays]
        _write_parquet(rows, pa.schema(schema), self._snapshot_path)

    def online(self, sites: list[str]) -> dict[str, OnlineHistory]:
        """The last histories of some sites from the online store; sites that it does not know are left out."""
        return self._online.read(sites)

    def online_window(self, site: str, *, origin_s: int) -> Window:
        """The window of a site at an origin, from the online store.

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: The online store holds nothing of it.
        """
        group = with_neighbours(self.domain, self.readings.site(site), self.readings.sites())
        return window_of(self.domain, group, self.online([member.name for member in group]), origin_s=origin_s)


def _write_parquet(frame: pd.DataFrame, schema: pa.Schema, path: Path) -> None:
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False), temporary)


def _moment(seconds: int) -> pd.Timestamp:
    return pd.Timestamp(seconds, unit="s", tz="UTC")


def _moments(seconds: pd.Series) -> pd.Series:
    whole = seconds.to_numpy(dtype=np.int64).astype("datetime64[s]").astype("datetime64[us]")
    return pd.Series(whole, index=seconds.index).dt.tz_localize("UTC")
