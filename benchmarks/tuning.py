"""A hundred trials of the traffic search on the generator's readings: how long they take, and what they find.

Run: `python -m benchmarks.tuning [--trials 100] [--workers 2]`. It runs `towncast tune traffic --recipe quick` in an
installed environment and an empty folder, from readings that it makes to a recipe found, and reads the study
afterwards. With `--folder` the folder is kept, and the same command goes on with a search that was stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from training.studies import Progress, opened_storage, progress_of

_CLAIMED_TRIALS, _LIMIT_MINUTES = 100, 30
_SMOKE_TRIALS = 2


def main() -> None:
    """Search once, and report the study."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=_CLAIMED_TRIALS, help="finished trials, pruned ones among them")
    parser.add_argument("--workers", type=int, default=2, help="processes that work on trials")
    parser.add_argument("--folder", type=Path, help="keep readings and study here; a stopped search goes on")
    options = parser.parse_args()
    trials = _SMOKE_TRIALS if options.quick else options.trials
    with _folder(options.folder) as folder:
        before = _progress(folder)
        began = time.perf_counter()
        _search(folder, trials=trials, workers=options.workers)
        minutes = (time.perf_counter() - began) / 60
        progress = _progress(folder)
    assert progress is not None, "a search leaves a study"
    finished_before = 0 if before is None else before.finished
    _report(progress, minutes=minutes, finished_before=finished_before, workers=options.workers)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _search(folder: Path, *, trials: int, workers: int) -> None:
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOWNCAST_DATA_DIR": str(folder / "var"),
        "TOWNCAST_TRACKING_URI": f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
        "TOWNCAST_OPTUNA_URL": _studies_url(folder),
    }
    words = ["tune", "traffic", "--recipe", "quick", "--trials", str(trials), "--workers", str(workers)]
    command = [str(Path(sys.executable).parent / "towncast"), *words]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def _studies_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


def _progress(folder: Path) -> Progress | None:
    """How far the folder's study is, None where there is none yet."""
    if not (folder / "studies.db").exists():
        return None
    with opened_storage(_studies_url(folder)) as storage:
        names = optuna.get_all_study_names(storage)
        return progress_of(optuna.load_study(study_name=names[0], storage=storage)) if names else None


def _report(progress: Progress, *, minutes: float, finished_before: int, workers: int) -> None:
    judged_now = progress.finished - finished_before
    per_trial = minutes / max(judged_now, 1)
    figures = {
        "trials": progress.finished,
        "completed": progress.finished - progress.pruned,
        "pruned": progress.pruned,
        "failed": progress.failed,
        "workers": workers,
        "minutes": round(minutes, 2),
        "minutes_per_trial": round(per_trial, 4),
        "best_value": _rounded(progress.best),
        "first_value": _rounded(progress.present),
    }
    table = Table(title="towncast tune traffic --recipe quick, on the generator's readings")
    table.add_column("")
    table.add_column("figure", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), "-" if value is None else f"{value}")
    console = wide_console()
    console.print(table)
    if finished_before:
        console.print(f"went on after {finished_before} trials: the minutes are those of the other {judged_now}")
    console.print(
        f"{_CLAIMED_TRIALS} trials in at most {_LIMIT_MINUTES} minutes on two cores; "
        f"at this pace, with start and end, in {_CLAIMED_TRIALS * per_trial:.1f}"
    )
    console.print(
        "value: pinball loss over that of the seasonal profile, mean over folds and sites; first: the recipe's"
    )
    print_result("tuning", figures)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    main()
