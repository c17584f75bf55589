"""The environment of the jobs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from features.settings import StorageSettings


class Settings(StorageSettings):
    """Settings of the jobs, from variables named `TOWNCAST_*`.

    Attributes:
        require_approval: Whether a person must approve each champion; the gate alone decides otherwise.
        simulated_weeks: How many weeks are rolled out where there are no readings; by default as many as the rollouts
            name themselves [weeks].
        optuna_url: Where searches for recipes are kept; by default an SQLite file in the data folder.
    """

    require_approval: bool = False
    simulated_weeks: int | None = Field(default=None, ge=1)
    optuna_url: str = ""

    @property
    def studies_url(self) -> str:
        """Address of the store of searches, as SQLAlchemy writes it."""
        return self.optuna_url or f"sqlite:///{self.data_dir / 'studies.db'}"

    @property
    def retraining_dir(self) -> Path:
        """Folder of the states of retrainings."""
        return self.data_dir / "retraining"

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the checkpoints of trainings that were stopped."""
        return self.data_dir / "checkpoints"
