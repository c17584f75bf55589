"""The card of an artifact: what serving must know about a model without knowing how it was trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from features.adaptive_intervals import INTERVALS_FILE
from features.errors import ArtifactError
from features.files import whole_file
from features.vocabulary import Site

CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
# The same graph with its heavy weights in half precision, where it has any.
HALF_GRAPH_FILE = "model.fp16.onnx"
# Whatever else lies in an artifact's folder is not read.
ARTIFACT_FILES = (GRAPH_FILE, HALF_GRAPH_FILE, INTERVALS_FILE)
# A card of a thousand sites and ten domains' channels has a tenth of that.
_LARGEST_CARD_BYTES = 16 * 1024 * 1024
# Alias of the version that serves.
CHAMPION = "champion"
# Keys of `Card.trained`: the last moment whose value its weights were fitted to, and the last whose reading the
# adaptive intervals have learnt from [s since 1970].
TRAINED_UNTIL = "train_until_s"
INTERVALS_UNTIL = "intervals_until_s"
# Before a site's name: the moment before which its own target is missing to the model, as it broke with its past then.
FORGETS_BEFORE = "forgets_before_s/"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPrecision:
    """What came of putting the heavy weights of a graph into half precision.

    Attributes:
        nodes: How many nodes were converted; 0 where the graph has none with heavy weights, as trees and Prophet.
        parity: How closely the converted graph repeats the forecaster; None where there was nothing to convert. Where
            the difference is above the tolerance the converted graph is not kept.
    """

    nodes: int
    parity: ParityCertificate | None = None


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
        half_precision: Of the graph in half precision; None where the export did not try.
        files: SHA-256 of each file beside the card, by its name; `save` renews them. Not compared: they tell what lies
            in one folder, and a model that is packed twice may differ in bytes.
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
    half_precision: HalfPrecision | None = None
    files: dict[str, str] = field(default_factory=dict, compare=False)

    def save(self, folder: Path) -> Path:
        """Write `card.json`, with the hashes of the artifact's files that lie there, into `folder`; return its path.

        It is to be written last: a file that changes later is refused when the artifact is opened.

        Raises:
            StorageError: The folder cannot be written.
        """
        path = folder / CARD_FILE
        hashes = {name: _sha256(folder / name) for name in ARTIFACT_FILES if (folder / name).is_file()}
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps({**asdict(self), "files": hashes}, indent=1), encoding="utf-8")
        return path


def check_files(folder: Path, card: Card) -> None:
    """Prove that the files beside a card are those that it was written for.

    Raises:
        ArtifactError: One is missing, changed, without a hash, or a link to somewhere else.
    """
    present = [name for name in ARTIFACT_FILES if (folder / name).exists() or (folder / name).is_symlink()]
    for name in sorted({*present, *card.files, GRAPH_FILE}):
        found = _difference(folder, name, card.files.get(name))
        if found:
            raise ArtifactError(
                "A file of the artifact is not the one that its card was written for",
                found=f"{folder / name}: {found}",
                remedy=f"Do not serve it; train the model again, with `towncast train {card.domain}`.",
            )


def _difference(folder: Path, name: str, expected: str | None) -> str:
    """What is wrong with a file; "" where nothing is."""
    path = folder / name
    if name not in ARTIFACT_FILES:
        return "an artifact has no such file"
    if not isinstance(expected, str) or not expected:
        return "the card has no hash of it"
    if path.is_symlink() or not path.is_file():
        return "it is missing, or not a plain file"
    try:
        actual = _sha256(path)
    except OSError as error:
        return str(error)
    return "" if actual == expected else f"SHA-256 {actual}, the card says {expected}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_card(folder: Path) -> Card:
    """Read `card.json` from `folder`.

    Raises:
        ArtifactError: It is missing, damaged, or of another layout.
    """
    path = folder / CARD_FILE
    try:
        content: dict[str, Any] = json.loads(_small_text(path))
        tuples = ("history_channels", "future_channels", "static_channels", "levels")
        return Card(
            **{
                **content,
                **{name: tuple(content[name]) for name in tuples},
                "sites": tuple(Site(**{**site, "neighbours": tuple(site["neighbours"])}) for site in content["sites"]),
                "input_range": {name: (low, high) for name, (low, high) in content["input_range"].items()},
                "parity": ParityCertificate(**content["parity"]),
                "speed": {name: SpeedRelation(**relation) for name, relation in content["speed"].items()},
                "half_precision": _half_precision(content.get("half_precision")),
                "files": dict(content.get("files", {})),
            }
        )
    # RecursionError: JSON that is nested thousands deep.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            "The model card cannot be read",
            found=f"{path}: {error}",
            remedy="Register the model again, with `towncast train`.",
        ) from error


def _half_precision(content: dict[str, Any] | None) -> HalfPrecision | None:
    if content is None:
        return None
    parity = content["parity"]
    return HalfPrecision(nodes=content["nodes"], parity=None if parity is None else ParityCertificate(**parity))


def _small_text(path: Path) -> str:
    """The text of a plain file of ordinary size."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ValueError("it is not a plain file")
    size = path.stat().st_size
    if size > _LARGEST_CARD_BYTES:
        raise ValueError(f"{size} bytes, at most {_LARGEST_CARD_BYTES} are read")
    return path.read_text(encoding="utf-8")
