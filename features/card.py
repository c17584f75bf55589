"""The card of an artifact: what serving must know about a model without knowing how it was trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from features.errors import ArtifactError
from features.files import whole_file
from features.vocabulary import Site

CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
# Alias of the version that serves.
CHAMPION = "champion"
# Keys of `Card.trained`: the last moment whose value its weights were fitted to, and the last whose reading the
# adaptive intervals have learnt from [s since 1970].
TRAINED_UNTIL = "train_until_s"
INTERVALS_UNTIL = "intervals_until_s"


def registered_name(domain: str, target: str = "") -> str:
    """Name of a domain's model in the registry; `target` is given for another than the domain's first."""
    return f"towncast-{domain}-{target}" if target else f"towncast-{domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCertificate:
    """How closely the exported graph repeats the forecaster over a stored batch.

    Attributes:
        windows: Size of the batch.
        largest_relative: Largest difference, relative to the largest value of the batch.
        tolerance: The most that is allowed.
        batch_hash: Hash of the batch's inputs.
    """

    windows: int
    largest_relative: float
    tolerance: float
    batch_hash: str


# Travel time grows with the load v / c as t = t0 (1 + BPR_FACTOR (v / c)^BPR_POWER): Bureau of Public Roads, Traffic
# Assignment Manual, U.S. Department of Commerce, 1964.
BPR_FACTOR, BPR_POWER = 0.15, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRelation:
    """Parameters of the volume-speed relation of a road (Bureau of Public Roads, see `serving.speed`).

    Attributes:
        free_flow_km_per_h: Speed on the empty road [km/h].
        capacity_veh_per_h: Practical capacity [veh/h].
        measured: Whether both were fitted to measured speeds; otherwise they are assumptions.
    """

    free_flow_km_per_h: float
    capacity_veh_per_h: float
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an artifact is and how to feed it.

    Attributes:
        model: Name in the registry, such as `traffic-lstm`.
        domain: Domain's name.
        family: Model family.
        target: Name of the target quantity.
        unit: Its unit.
        step_s: Length of a step [s].
        history_steps: L of the graph's input.
        horizon_steps: H of its output.
        history_channels: Channels of `history_BLK`, in order.
        future_channels: Channels of `future_BHK`, in order.
        static_channels: Values of `static_BS`, in order.
        levels: Quantile levels of the output.
        sites: Sites it was trained on.
        input_range: Lowest and highest value of each measured channel in training.
        parity: The certificate; without one the artifact is not registered.
        metrics: Judged on held-out readings, by horizon and metric.
        speed: Volume-speed relation by site.
        trained: When, on what, by what: code version, data hash, feature service, recipe, spans.
    """

    model: str
    domain: str
    family: str
    target: str
    unit: str
    step_s: int
    history_steps: int
    horizon_steps: int
    history_channels: tuple[str, ...]
    future_channels: tuple[str, ...]
    static_channels: tuple[str, ...]
    levels: tuple[float, ...]
    sites: tuple[Site, ...]
    input_range: dict[str, tuple[float, float]]
    parity: ParityCertificate
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    speed: dict[str, SpeedRelation] = field(default_factory=dict)
    trained: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        """Write `card.json` into `folder` and return its path.

        Raises:
            StorageError: The folder cannot be written.
        """
        path = folder / CARD_FILE
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return path


def load_card(folder: Path) -> Card:
    """Read `card.json` from `folder`.

    Raises:
        ArtifactError: It is missing, damaged, or of another layout.
    """
    path = folder / CARD_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tuples = ("history_channels", "future_channels", "static_channels", "levels")
        return Card(
            **{
                **content,
                **{name: tuple(content[name]) for name in tuples},
                "sites": tuple(Site(**{**site, "neighbours": tuple(site["neighbours"])}) for site in content["sites"]),
                "input_range": {name: (low, high) for name, (low, high) in content["input_range"].items()},
                "parity": ParityCertificate(**content["parity"]),
                "speed": {name: SpeedRelation(**relation) for name, relation in content["speed"].items()},
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "The model card cannot be read",
            found=f"{path}: {error}",
            remedy="Register the model again, with `towncast train`.",
        ) from error
