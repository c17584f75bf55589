"""The document's recipe for logging, in an entry point of its own."""

import subprocess
import sys
import time
from pathlib import Path

import httpx

ENTRY_POINT = """
import logging
import socket
import sys

logging.basicConfig(
    level=logging.INFO,
    format="%(asctime)s %(levelname)s [%(name)s] %(message)s",
    filename="digital_twin.log",
    filemode="w",
)

from serving.app import create_app, run_app
from serving.settings import ServingSettings

with socket.socket() as opened:
    opened.bind(("127.0.0.1", 0))
    port = opened.getsockname()[1]
app = create_app(ServingSettings(), services=[])
print(port, flush=True)
run_app(app, host="127.0.0.1", port=port)
"""


def wait_until_it_listens(process: subprocess.Popen[str], client: httpx.Client) -> None:
    while process.poll() is None:
        try:
            client.get("/health/live")
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return


def test_the_documents_recipe_writes_a_log_file(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY_POINT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client(base_url=url, timeout=60) as client:
            wait_until_it_listens(process, client)
            session_id = client.post("/simulate/init", json={"model_name": "water_tank"}).json()["session_id"]
            body = {"session_id": session_id, "control_input": -1.0, "delta_time": 1.0}
            assert client.post("/simulate/step", json=body).status_code == 400
    finally:
        process.terminate()
        process.communicate()
    lines = (tmp_path / "digital_twin.log").read_text().splitlines()
    told = [line for line in lines if "[SimulationManager]" in line and session_id in line]
    assert ["INFO" in line or "ERROR" in line for line in told] == [True, True]
    assert "began" in told[0]
    assert "ERROR" in told[1]
