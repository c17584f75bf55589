"""The environment of the prediction log."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from features.settings import StorageSettings


class PredictionLogSettings(StorageSettings):
    """Settings of the prediction log, from variables named `TOWNCAST_*`.

    Attributes:
        prediction_log: Whether answers are logged.
        prediction_log_ahead: Whether forecasts are logged too that were made before anybody asked: the first of each
            site, model and origin. Without them, errors are known only of what was asked for.
        prediction_log_url: SQLAlchemy address of the log; by default an SQLite file in the data folder.
        prediction_log_flush_s: Time between two moves from the journal into the log [s].
        prediction_log_days: How long answers and forecasts stay in the log [d]; 0 for ever.
    """

    prediction_log: bool = True
    prediction_log_ahead: bool = True
    prediction_log_url: str = ""
    prediction_log_flush_s: float = Field(default=1.0, gt=0)
    prediction_log_days: float = Field(default=400.0, ge=0)

    @property
    def journal_dir(self) -> Path:
        """Folder of the journal."""
        return self.data_dir / "predictions" / "journal"

    @property
    def log_url(self) -> str:
        """Address of the log."""
        return self.prediction_log_url or f"sqlite:///{self.data_dir.absolute() / 'predictions' / 'log.db'}"
