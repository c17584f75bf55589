"""Run every benchmark and renew RESULTS.md and the README's pictures.

Run: `python -m benchmarks [--data DIR] [--quick] [--only NAME]`.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import arguments
from features.files import whole_file

# Name and whether it reads published files.
BENCHMARKS: dict[str, bool] = {
    "accuracy": True,
    "training_loop": False,
    "serving": False,
    "feature_lookup": False,
    "soak": False,
    "kill": False,
    "prediction_log": False,
    "explain": False,
    "intervals": True,
    "bwdf": True,
    "prophet_graph": True,
    "tuning": False,
    "engines": True,
    "sim_to_real": True,
    "twin_latency": True,
    "reactor": False,
    "train_job": False,
    "monitoring": True,
    "retraining": True,
}
DRAWS = {"accuracy", "sim_to_real"}
RESULTS = Path(__file__).parent / "RESULTS.md"
PICTURES = Path(__file__).parents[1] / "docs" / "images"
_HEAD = """# Results

Each section is the last output of its command; dated, with commit and machine. `make bench DATA=folder` renews all.
Machines are shared and noisy: read the ratios, not the seconds.
"""


def main() -> None:
    """Run them one after the other; a failed one keeps its old section."""
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="run one, and renew its section alone")
    options = parser.parse_args()
    sections = _sections(RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "")
    failed = []
    for name, reads_data in BENCHMARKS.items():
        if options.only not in (None, name):
            continue
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        command += ["--data", str(options.data)] if reads_data else []
        command += ["--pictures", str(PICTURES)] if name in DRAWS and not options.quick else []
        command += ["--quick"] if options.quick else []
        print(f"== {name}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="", flush=True)
        if done.returncode:
            failed.append(name)
        elif not options.quick:
            sections[name] = _section(done.stdout.rstrip().splitlines())
            text = _HEAD + "".join(sections[key] for key in BENCHMARKS if key in sections)
            with whole_file(RESULTS) as path:
                path.write_text(text, encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _section(lines: list[str]) -> str:
    result: dict[str, Any] = json.loads(lines[-1])
    today = datetime.datetime.now(datetime.UTC).date()
    shown = "\n".join(line.rstrip() for line in lines[:-1])
    return (
        f"\n## {result['benchmark']}\n\n{today}, commit {result['commit']}, {result['machine']}.\n\n"
        f"```text\n{shown}\n```\n\n```json\n{lines[-1]}\n```\n"
    )


def _sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0].strip(): f"\n## {part}" for part in parts}


if __name__ == "__main__":
    main()
