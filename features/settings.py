"""Where readings and features lie: the part of the environment that jobs and servers must agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StorageSettings(BaseSettings):
    """Folders and stores, from variables named `TOWNCAST_*`; read in `main` or `create_app`, never at import.

    Attributes:
        data_dir: Folder of readings, features, fetched artifacts and checkpoints.
        tracking_uri: Where MLflow is.
        online_store_url: Redis that holds Feast's online store, such as `redis://localhost:6379/0`; empty for SQLite in
            the data folder.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    data_dir: Path = Path("var")
    tracking_uri: str = "sqlite:///mlruns/mlflow.db"
    online_store_url: Annotated[str, Field(pattern=r"^$|^(redis|rediss)://")] = ""

    @property
    def readings_dir(self) -> Path:
        """Folder of the reading stores."""
        return self.data_dir / "readings"

    @property
    def feast_dir(self) -> Path:
        """Folder of the Feast repositories."""
        return self.data_dir / "feast"
