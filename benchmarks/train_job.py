"""Wall time and peak memory of `towncast train traffic --recipe quick` in an installed environment.

Run: `python -m benchmarks.train_job`. The whole job, from readings that it makes to a registered champion.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import arguments, print_result, wide_console

_LIMIT_S = 240


def main() -> None:
    """Run the job once in an empty folder."""
    arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            **os.environ,
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOWNCAST_DATA_DIR": str(folder / "var"),
            "TOWNCAST_TRACKING_URI": f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
        }
        began = time.perf_counter()
        command = [str(Path(sys.executable).parent / "towncast"), "train", "traffic", "--recipe", "quick"]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - began
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    wide_console().print(f"{seconds:.0f} s (at most {_LIMIT_S}), peak memory {peak_mib:.0f} MiB")
    print_result("train_job", {"seconds": round(seconds, 1), "peak_mib": round(peak_mib)})


if __name__ == "__main__":
    main()
