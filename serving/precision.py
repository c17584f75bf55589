"""Which of an artifact's graphs serves: the one that was certified, or the one with half-precision weights."""

from __future__ import annotations

import logging
from dataclasses import replace

from features.card import HALF_GRAPH_FILE, HalfPrecision
from features.errors import ArtifactError
from serving.artifacts import Artifact
from serving.settings import Precision

_LOG = logging.getLogger(__name__)


def at_precision(artifact: Artifact, precision: Precision) -> Artifact:
    """An artifact whose graph is of the precision that was asked for.

    A model without heavy weights (trees, Prophet) has nothing to convert: it stays as it is, and that is said.

    Raises:
        ArtifactError: The graph in half precision is missing, or differs from the forecaster by more than is allowed.
    """
    half = artifact.card.half_precision
    if precision == "fp32":
        return replace(artifact, precision="fp32")
    if half is not None and half.nodes == 0:
        _LOG.info("%s has no heavy weights: nothing of it is in half precision", artifact.model_version)
        return replace(artifact, precision="fp32")
    if not _holds(half):
        raise ArtifactError(
            f"{artifact.model_version} cannot be served in half precision",
            found=_why_not(half),
            remedy="Set TOWNCAST_PRECISION=fp32, or train it again.",
        )
    if not (artifact.folder / HALF_GRAPH_FILE).is_file():
        raise ArtifactError(
            f"{artifact.model_version} has no graph in half precision",
            found=f"no file {artifact.folder / HALF_GRAPH_FILE}",
            remedy=f"Train it again, with `towncast train {artifact.card.domain}`, or set TOWNCAST_PRECISION=fp32.",
        )
    return replace(artifact, precision="fp16")


def _holds(half: HalfPrecision | None) -> bool:
    """Written this way round, a figure that is not a number does not hold either."""
    if half is None or half.parity is None:
        return False
    return half.parity.windows > 0 and 0 <= half.parity.largest_relative <= half.parity.tolerance


def _why_not(half: HalfPrecision | None) -> str:
    if half is None or half.parity is None:
        return "its export did not try"
    return f"it differs by {half.parity.largest_relative:.1e}, at most {half.parity.tolerance:.0e} is allowed"
