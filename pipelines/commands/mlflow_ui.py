"""`towncast mlflow-ui`: the MLflow pages over this installation's store."""

from __future__ import annotations

from typing import Annotated

import typer


def mlflow_ui(port: Annotated[int, typer.Option(help="Port on the loopback address.")] = 5000) -> None:
    """Open MLflow's pages (parameters, curves, pictures, registry) on http://127.0.0.1:PORT."""
    import subprocess
    import sys

    from pipelines.settings import Settings

    store = Settings().tracking_uri
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    subprocess.run([*command, "--backend-store-uri", store], check=False)
