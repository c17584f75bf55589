"""What Feast is told of a domain: its entities, feature views, push source and services."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from features.online_store import stored_steps
from features.vocabulary import Domain

# Raised when the meaning of a feature changes: models name the version that they were trained on.
FEATURES_VERSION = 2


def training_service(domain: Domain) -> str:
    """Name of the feature service that training reads."""
    return f"{domain.name}_training_v{FEATURES_VERSION}"


def serving_service(domain: Domain) -> str:
    """Name of the feature service that serving reads."""
    return f"{domain.name}_serving_v{FEATURES_VERSION}"


def definitions(domain: Domain, *, source_path: Callable[[str], Path], snapshot_path: Path) -> list[Any]:
    """Entities, views, push source and services of a domain, for Feast to register.

    Args:
        domain: Names them.
        source_path: Where the readings of a quantity are.
        snapshot_path: Where the last whole picture of the online store is.
    """
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
    from feast.types import Bytes, Float64, Int64, String
    from feast.value_type import ValueType

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
            path=str(source_path(quantity.name).absolute()),
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
            name=f"{domain.name}_snapshot", path=str(snapshot_path.absolute()), timestamp_field="written_at"
        ),
    )
    arrays = [
        Field(
            name=quantity.name,
            dtype=Bytes,
            description=f"{stored_steps(domain, quantity.name)} steps from the first of the history on, "
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
    return [site, moment, *views, push, window, *services]
