"""Feast, generated from a `Domain`: offline for training, point in time on both clocks; online for serving.

Offline, each input quantity is a feature view whose entity is a site *and* a moment: the moment says when a value is
true, and Feast's point-in-time join (event and created timestamp, both cut off) says whether it was known. Online, one
view per domain holds each site's last history, pushed when readings arrive.
"""

from __future__ import annotations

import contextlib
import functools
import io
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.errors import NotEnoughDataError
from features.files import make_folder, whole_file
from features.online_history import OnlineHistory, window_of, with_neighbours
from features.readings import KEY_COLUMNS, epoch_s
from features.store import ReadingStore
from features.vocabulary import Domain, Site, Window
from features.windows import Panel, build_panel, make_windows

if TYPE_CHECKING:
    from feast import FeatureStore

# Raised when the meaning of a feature changes: models name the version that they were trained on.
FEATURES_VERSION = 2
# Histories travel as bytes: Feast's way through Arrow turns a missing value inside a list into 0, and bytes are faster.
_BLOB = np.dtype("<f4")
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


def training_service(domain: Domain) -> str:
    """Name of the feature service that training reads."""
    return f"{domain.name}_training_v{FEATURES_VERSION}"


def serving_service(domain: Domain) -> str:
    """Name of the feature service that serving reads."""
    return f"{domain.name}_serving_v{FEATURES_VERSION}"


class FeatureRepository:
    """The Feast repository of one domain, over its reading store.

    Args:
        root: Folder of the repository (registry, offline Parquet, SQLite online store); made by `apply`.
        readings: Where the readings are.
    """

    def __init__(self, root: Path, readings: ReadingStore) -> None:
        self.readings = readings
        self.domain = readings.domain
        self.folder = root / self.domain.name

    @functools.cached_property
    def _store(self) -> FeatureStore:
        from feast import FeatureStore, RepoConfig

        make_folder(self.folder)
        config = RepoConfig(
            project="towncast",
            provider="local",
            registry=str(self.folder / "registry.db"),
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": str(self.folder / "online.db")},
            entity_key_serialization_version=3,
        )
        return FeatureStore(config=config)

    def exists(self) -> bool:
        """Whether `apply` was ever called."""
        return (self.folder / "registry.db").exists()

    def apply(self) -> None:
        """Write the offline sources from the reading store and register entities, views, push source and services.

        Raises:
            StorageError: The folder cannot be written.
        """
        from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
        from feast.types import Bytes, Float64, Int64, String
        from feast.value_type import ValueType

        domain = self.domain
        self._write_offline_sources()
        site = Entity(name="site", join_keys=["site"], value_type=ValueType.STRING, description=f"a {domain.entity}")
        moment = Entity(
            name="moment",
            join_keys=["valid_at_s"],
            value_type=ValueType.INT64,
            description="moment that a value is true for [s since 1970]",
        )
        views: list[Any] = []
        for quantity in domain.inputs:
            source = FileSource(
                name=f"{domain.name}_{quantity.name}_readings",
                path=str(self._source_path(quantity.name).absolute()),
                timestamp_field="valid_at",
                created_timestamp_column="available_at",
            )
            views.append(
                FeatureView(
                    name=f"{domain.name}_{quantity.name}",
                    entities=[site, moment],
                    ttl=timedelta(0),
                    schema=[
                        Field(name="site", dtype=String),
                        Field(name="valid_at_s", dtype=Int64),
                        Field(name="value", dtype=Float64, description=f"{quantity.description} [{quantity.unit}]"),
                        Field(name="available_at_s", dtype=Int64, description="when it became known [s since 1970]"),
                    ],
                    source=source,
                    online=False,
                )
            )
        push = PushSource(
            name=f"{domain.name}_push",
            batch_source=FileSource(
                name=f"{domain.name}_snapshot", path=str(self._snapshot_path.absolute()), timestamp_field="written_at"
            ),
        )
        arrays = [
            Field(
                name=quantity.name,
                dtype=Bytes,
                description=f"{self._stored_steps(quantity.name)} steps from the first of the history on, "
                f"little-endian float32 [{quantity.unit}]",
            )
            for quantity in domain.inputs
        ]
        window = FeatureView(
            name=f"{domain.name}_window",
            entities=[site],
            ttl=timedelta(0),
            schema=[Field(name="site", dtype=String), *arrays, Field(name="valid_until_s", dtype=Int64)],
            source=push,
            online=True,
        )
        services = [
            FeatureService(name=training_service(domain), features=views),
            FeatureService(name=serving_service(domain), features=[window]),
        ]
        if not self._snapshot_path.exists():
            self._write_snapshot(self._blocks([], origin_s=0))
        self._store.apply([site, moment, *views, push, window, *services])

    def _stored_steps(self, quantity: str) -> int:
        """How much of a quantity the online store holds: its history, and what is known ahead of it."""
        ahead = self.domain.horizon_steps if quantity in self.domain.known_ahead else 0
        return self.domain.history_steps + ahead

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
        rows = self._blocks(list(self.readings.sites().values()), origin_s=self._step_of(as_of), as_of=as_of)
        self._write_snapshot(rows)
        written = pd.Timestamp(rows["written_at"].max()) if len(rows) else as_of
        # Feast prints what it does; callers show progress in their own way.
        with contextlib.redirect_stdout(io.StringIO()):
            self._store.materialize(
                start_date=(written - timedelta(days=1)).to_pydatetime(),
                end_date=(written + timedelta(seconds=1)).to_pydatetime(),
                feature_views=[f"{self.domain.name}_window"],
            )
        return len(rows)

    def push(self, sites: list[str], *, as_of: pd.Timestamp) -> None:
        """Bring the online store up to what was known of some sites at `as_of`, through the push source."""
        from feast.data_source import PushMode

        known = self.readings.sites()
        rows = self._blocks([known[name] for name in sites], origin_s=self._step_of(as_of), as_of=as_of)
        self._store.push(f"{self.domain.name}_push", rows, to=PushMode.ONLINE)

    def _step_of(self, moment: pd.Timestamp) -> int:
        return int(moment.timestamp()) // self.domain.step_s * self.domain.step_s

    def _blocks(self, sites: list[Site], *, origin_s: int, as_of: pd.Timestamp | None = None) -> pd.DataFrame:
        """Rows of the window view: each site's inputs over one history, up to its last step with any reading.

        What is known ahead of that step is kept with it.
        """
        domain = self.domain
        inputs = [quantity.name for quantity in domain.inputs]
        columns = ["site", "valid_until_s", "written_at", *inputs]
        rows: list[dict[str, Any]] = []
        for site in sites:
            known = self.readings.readings(
                sites=[site.name],
                quantities=inputs,
                end=_moment(origin_s + domain.horizon_steps * domain.step_s),
                available_by=as_of,
                columns=("value",),
            )
            past_s = epoch_s(known["valid_at"])
            past_s = past_s[past_s <= origin_s]
            if len(past_s) == 0:
                continue
            until_s = -(-int(past_s.max()) // domain.step_s) * domain.step_s
            # What became known after the last step, but by now, counts too; the order of revisions is kept.
            known["available_at"] = known["available_at"].where(
                known["available_at"] <= _moment(until_s), _moment(until_s)
            )
            panel = build_panel(domain, [site], known, first_origin_s=until_s, last_origin_s=until_s)
            window = make_windows(panel, [0], [panel.first_origin])
            arrays = {}
            for index, name in enumerate(inputs):
                values = window.history_BLK[0, :, index]
                if name in domain.known_ahead:
                    ahead = window.future_BHK[0, :, domain.future_channels.index(name)]
                    values = np.concatenate([values, ahead])
                arrays[name] = values.astype(_BLOB).tobytes()
            rows.append({"site": site.name, "valid_until_s": until_s, "written_at": pd.Timestamp.now("UTC"), **arrays})
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"valid_until_s": "int64", "written_at": "datetime64[us, UTC]"})

    def _write_snapshot(self, rows: pd.DataFrame) -> None:
        arrays = [(quantity.name, pa.binary()) for quantity in self.domain.inputs]
        schema = [("site", pa.string()), ("valid_until_s", pa.int64()), ("written_at", _MOMENT_TYPE), *arrays]
        _write_parquet(rows, pa.schema(schema), self._snapshot_path)

    def online(self, sites: list[str]) -> dict[str, OnlineHistory]:
        """The last histories of some sites from the online store; sites that it does not know are left out."""
        service = self._store.get_feature_service(serving_service(self.domain))
        answer = self._store.get_online_features(
            features=service, entity_rows=[{"site": name} for name in sites]
        ).to_dict()
        found = {}
        for index, name in enumerate(answer["site"]):
            if answer["valid_until_s"][index] is None:
                continue
            steps = self.domain.history_steps + self.domain.horizon_steps
            values = np.full((steps, len(self.domain.inputs)), np.nan, dtype=np.float32)
            for channel, quantity in enumerate(self.domain.inputs):
                array = np.frombuffer(answer[quantity.name][index], dtype=_BLOB)
                values[: len(array), channel] = array
            found[name] = OnlineHistory(valid_until_s=int(answer["valid_until_s"][index]), value_TK=values)
        return found

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
