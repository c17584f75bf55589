"""The environment of the jobs."""

from __future__ import annotations

from pathlib import Path

from features.settings import StorageSettings


class Settings(StorageSettings):
    """Settings of the jobs, from variables named `TOWNCAST_*`."""

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the checkpoints of trainings that were stopped."""
        return self.data_dir / "checkpoints"
