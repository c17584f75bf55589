"""The simulate job: weeks of rollouts in parallel processes, kept as they finish, then into the stores and Feast."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from features.domains import DOMAINS
from features.errors import InvalidParameterError, StorageError, TowncastError
from features.feast_repository import open_repository
from features.files import make_folder, whole_file
from features.readings import READING_COLUMNS
from features.sources.parsed import Parsed, join_rejected
from pipelines.ingest import IngestSummary, ingest_parsed
from pipelines.settings import Settings
from sim_env.rollouts import ROLLOUTS, Rollouts, run_name

_DIED = "its process died"


class RolloutError(TowncastError):
    """Some rollouts failed; those that finished are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Some weeks of a run.

    Attributes:
        kind: Name of the rollouts.
        usual: The scenario of an ordinary week.
        seed: Of everything random.
        weeks: How many, from the first.
        folder: Where finished weeks are kept.
    """

    kind: str
    usual: Any
    seed: int
    weeks: int
    folder: Path

    def path(self, week: int) -> Path:
        """File of a finished week."""
        return self.folder / f"week_{week:04d}.parquet"

    @property
    def missing(self) -> list[int]:
        """Weeks that are not finished."""
        return [week for week in range(self.weeks) if not self.path(week).exists()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """What a job made.

    Attributes:
        run: Which weeks.
        found: How many were finished before it began.
        readings: How many readings there are.
        summaries: What became of them in each domain's store.
        failed: Why a week could not be run, by week.
    """

    run: Run
    found: int
    readings: int
    summaries: tuple[IngestSummary, ...]
    failed: dict[int, str]


def plan_run(kind: str, *, weeks: int, settings: Settings, seed: int = 0, usual: Any = None) -> Run:
    """A run of `weeks` weeks whose finished weeks lie in the data folder.

    Raises:
        UnknownNameError: There are no such rollouts.
        InvalidParameterError: There is no week, or the scenario cannot be run.
    """
    rollouts = ROLLOUTS[kind]
    if weeks < 1:
        raise InvalidParameterError(
            parameter="scenarios",
            provided=weeks,
            allowed="1 or more",
            fact="There is nothing to simulate",
            remedy="Ask for one scenario (a week) or more.",
        )
    scenario = rollouts.usual if usual is None else usual
    folder = settings.data_dir / "rollouts" / run_name(kind, scenario, seed=seed)
    run = Run(kind=kind, usual=scenario, seed=seed, weeks=weeks, folder=folder)
    rollouts.week(scenario, seed=seed, week=weeks - 1)
    return run


def simulate(run: Run, *, workers: int, settings: Settings, console: Console) -> Simulated:
    """Roll out the weeks of a run that are not finished yet, and bring all into the stores and Feast.

    Args:
        run: Which weeks.
        workers: Processes.
        settings: Folders.
        console: Where progress is shown.

    Returns:
        What was made; a week that failed is named in it, the others are stored.

    Raises:
        StorageError: The disk is full, or a folder cannot be written; finished weeks are kept.
        KeyboardInterrupt: Stopped; the same call goes on with the weeks that are missing.
    """
    missing = run.missing
    found = run.weeks - len(missing)
    make_folder(run.folder)
    failed: dict[int, str] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task(f"Rollouts of {run.kind}, weeks", total=run.weeks, completed=found)
        for week, error in _finished(run, missing, workers=workers):
            if error is not None:
                failed[week] = error
            bar.advance(task)
    return _store(run, found=found, failed=failed, settings=settings)


def _finished(run: Run, weeks: Sequence[int], *, workers: int) -> Iterator[tuple[int, str | None]]:
    """Each week as it ends, with what went wrong if it failed."""
    outcome, killed = _in_processes(run, weeks, workers=workers), list[int]()
    for week, error in outcome:
        if error is _DIED:
            killed.append(week)
        else:
            yield week, error
    # A process that dies takes the weeks beside it along: alone, each shows whether it was the one.
    for week in killed:
        yield from _in_processes(run, [week], workers=1)


def _in_processes(run: Run, weeks: Sequence[int], *, workers: int) -> Iterator[tuple[int, str | None]]:
    if not weeks:
        return
    with tempfile.TemporaryDirectory(prefix="towncast-rollouts-") as scratch, _pool(workers, scratch) as pool:
        running = {pool.submit(_roll_out, run, week): week for week in weeks}
        for future in _as_they_end(running):
            yield running[future], _why(future)


def _why(future: Future[None]) -> str | None:
    """What went wrong with a week; None if nothing did.

    Raises:
        StorageError: Its file could not be written: nor will the others'.
    """
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return _DIED
    if isinstance(error, TowncastError) and not isinstance(error, StorageError):
        return str(error)
    if error is not None:
        raise error
    return None


def _as_they_end(running: dict[Future[None], int]) -> Iterator[Future[None]]:
    pending = set(running)
    while pending:
        # Short waits: a Ctrl-C is heard at once.
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        yield from sorted(done, key=lambda future: running[future])


@contextlib.contextmanager
def _pool(workers: int, scratch: str) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, at once if it raises."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(scratch,),
    )
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(scratch: str) -> None:
    # The parent alone answers a Ctrl-C, ends its workers, and removes what they leave in its scratch folder.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = scratch


def _roll_out(run: Run, week: int) -> None:
    rollouts: Rollouts[Any] = ROLLOUTS[run.kind]
    scenario = rollouts.week(run.usual, seed=run.seed, week=week)
    readings = rollouts.readings(scenario, seed=run.seed, week=week)
    with whole_file(run.path(week)) as path:
        readings.to_parquet(path, index=False, compression="zstd")


def _store(run: Run, *, found: int, failed: dict[int, str], settings: Settings) -> Simulated:
    files = [run.path(week) for week in range(run.weeks) if run.path(week).exists()]
    if not files:
        return Simulated(run=run, found=found, readings=0, summaries=(), failed=failed)
    readings = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    sites = ROLLOUTS[run.kind].sites(run.usual)
    summaries = []
    for domain in ROLLOUTS[run.kind].domains:
        rows = readings.loc[readings["domain"] == domain, list(READING_COLUMNS)].reset_index(drop=True)
        parsed = Parsed(readings=rows, rejected=join_rejected([]), sites=sites[domain], rows=len(rows))
        summaries.append(ingest_parsed(parsed, DOMAINS[domain], root=settings.readings_dir))
        _into_feast(domain, settings)
    return Simulated(run=run, found=found, readings=len(readings), summaries=tuple(summaries), failed=failed)


def _into_feast(domain: str, settings: Settings) -> None:
    repository = open_repository(settings, DOMAINS[domain])
    repository.apply()
    repository.materialise(as_of=pd.Timestamp.now("UTC"))


def raise_failed(simulated: Simulated) -> None:
    """Say which weeks failed, if any did.

    Raises:
        RolloutError: A week failed.
    """
    if simulated.failed:
        week, why = next(iter(simulated.failed.items()))
        raise RolloutError(
            f"{len(simulated.failed)} of {simulated.run.weeks} rollouts failed",
            found=f"week {week}: {why}",
            remedy="The others are stored. Mend the cause and run the same command again: it does what is missing.",
        )


@functools.cache
def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
