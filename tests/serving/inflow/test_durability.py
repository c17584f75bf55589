"""An acknowledged reading outlasts the process, whatever ends it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

from features.store import ReadingStore
from tests.serving.inflow.conftest import NOW, TRAFFIC

# Stores readings one after the other, and names each on its output once it is acknowledged.
_SENDER = """
import asyncio, sys
from pathlib import Path
from tests.serving.inflow.conftest import NOW, reading
from serving.inflow.desk import ReadingDesk
from serving.inflow.settings import InflowSettings
from serving.metrics import Metrics

async def work():
    desk = ReadingDesk(InflowSettings(data_dir=Path(sys.argv[1])), Metrics(), now=NOW.timestamp)
    for number in range(100000):
        (outcome,) = await desk.take([reading(minutes_ago=19 - number / 1000, value=float(number))], transport="http")
        print(outcome.outcome, number, flush=True)

asyncio.run(work())
"""


def test_what_was_acknowledged_is_there_after_a_kill(data_dir: Path) -> None:
    sender = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SENDER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert sender.stdout is not None
    acknowledged = []
    # More than are merged at once, so that the kill comes near a merge.
    for line in sender.stdout:
        outcome, number = line.split()
        assert outcome == "stored"
        acknowledged.append(float(number))
        if len(acknowledged) == 34:
            break
    sender.kill()
    sender.wait()
    sender.stdout.close()
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    stored = store.readings(sites=["R001"], start=NOW - pd.Timedelta("19min"))
    values = stored["value"].tolist()
    assert acknowledged == [float(number) for number in range(34)]
    assert set(acknowledged) <= set(values)
    assert len(values) == len(set(values))
