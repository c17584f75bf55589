"""Keep libraries' small talk off the user's screen; our own errors and tables stay."""

from __future__ import annotations

import logging
import os

_CHATTY = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "alembic",
    "torch.onnx",
    "feast",
    "py.warnings",
)


def quiet_libraries() -> None:
    """Show only errors of the libraries that a job uses; to be called before they are imported."""
    # MLflow sets its own level when it is imported.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Filters would not last: Feast and others set their own when they are imported.
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # A cursor that Ctrl-C cuts off is closed with an "error" of its own.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
