"""Trials in parallel: worker processes with a share of the cores each, that all work on one study."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import SearchError, TowncastError
from training.studies import Progress, begin, opened_study, progress_of
from training.tune import Search, run_trial

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

_RUN = "run"
_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    process: BaseProcess
    said: connection.Connection


def run_trials(
    search: Search,
    *,
    trials: int,
    workers: int = 1,
    timeout_s: float | None = None,
    seen: Callable[[Study, Progress], None] = lambda study, progress: None,
    prepare: Callable[[], None] | None = None,
) -> Progress:
    """Work on a study until it has enough finished trials; what it has already counts.

    Workers are processes: threads would share one interpreter, and Lightning's state. They are spawned, so the caller's
    main module must be importable without running.

    Args:
        search: What to search for.
        trials: Finished trials, pruned ones among them, that the study shall have.
        workers: Processes.
        timeout_s: After this the running trials are given up and the search ends [s].
        seen: Called in this process, about twice a second.
        prepare: Called first in each worker; a function of a module.

    Raises:
        SearchError: A worker broke; finished trials are kept.
        KeyboardInterrupt: Stopped; the same call goes on with the finished trials.
    """
    run = uuid.uuid4().hex
    until = None if timeout_s is None else time.monotonic() + timeout_s
    with opened_study(search) as study:
        begin(study, search)
        progress = progress_of(study)
        seen(study, progress)
        missing = trials - progress.finished
        if missing <= 0:
            return progress
        context = multiprocessing.get_context("spawn")
        tickets = context.Value("i", missing)
        # Another seed on going on: the random first trials would be tried again.
        seed = search.seed + 1009 * len(study.get_trials(deepcopy=False))
        started: list[_Worker] = []
        with tempfile.TemporaryDirectory() as temporary:
            # As an argument it would hold up the start of each next worker until this one has imported everything.
            packed = Path(temporary) / "search"
            packed.write_bytes(pickle.dumps(search))
            try:
                with _quiet_start(workers):
                    for index in range(min(workers, missing)):
                        started.append(_start(context, (packed, tickets, seed + index, run, prepare)))
                _watch(started, study, trials, until, seen)
            finally:
                for worker in started:
                    _stop(worker)
                _give_up(study, run)
        progress = progress_of(study)
        seen(study, progress)
    return progress


def _watch(
    started: list[_Worker],
    study: Study,
    trials: int,
    until: float | None,
    seen: Callable[[Study, Progress], None],
) -> None:
    """Until there are enough trials, all workers have ended, or the time is over."""
    running = list(started)
    while running and (until is None or time.monotonic() < until):
        connection.wait([worker.process.sentinel for worker in running], timeout=_POLL_S)
        for worker in [worker for worker in running if not worker.process.is_alive()]:
            running.remove(worker)
            if worker.process.exitcode:
                raise _broken(worker)
        progress = progress_of(study)
        seen(study, progress)
        # A worker that comes late finds no ticket left: there is no need to wait for it.
        if progress.finished >= trials:
            return


def _broken(worker: _Worker) -> SearchError:
    found = f"it ended with status {worker.process.exitcode}"
    with contextlib.suppress(EOFError):
        if worker.said.poll():
            found = str(worker.said.recv())
    return SearchError(
        "A trial broke, and the search was stopped",
        found=found,
        remedy="Mend what it says, or ask for fewer --workers if memory ran out; the same command goes on.",
    )


def _start(context: SpawnContext, task: tuple[object, ...]) -> _Worker:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(*task, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, said=ours)


def _stop(worker: _Worker) -> None:
    """What a worker was doing can be done again."""
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.said.close()


@contextlib.contextmanager
def _quiet_start(workers: int) -> Iterator[None]:
    """What is started here deals neither with Ctrl-C, which its parent does, nor takes the cores of the others."""
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    # Threads that wait by spinning take the cores from the others.
    wanted = {**dict.fromkeys(names, threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _give_up(study: Study, run: str) -> None:
    """Mark the trials that this run's workers left unfinished as failed, so that nobody waits for them."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(_RUN) == run:
            study.tell(trial.number, state=TrialState.FAIL)


def _work(
    packed: Path,
    tickets: Synchronized[int],
    seed: int,
    run: str,
    prepare: Callable[[], None] | None,
    said: connection.Connection,
) -> None:
    """In a worker process: trial after trial, as long as there are tickets and somebody waits for them."""
    if prepare is not None:
        prepare()
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is started by run_trials"
    search: Search = pickle.loads(packed.read_bytes())
    try:
        with opened_study(search, sampler_seed=seed) as study:
            while parent.is_alive() and _take(tickets):
                study.optimize(functools.partial(_named_trial, search, run), n_trials=1)
    except KeyboardInterrupt:
        # Lightning makes one of a SIGTERM: whoever sent it wants no traceback.
        sys.exit(130)
    except TowncastError as error:
        said.send(str(error))
        sys.exit(1)
    except Exception as error:
        said.send(f"{type(error).__name__}: {error}")
        raise


def _take(tickets: Synchronized[int]) -> bool:
    with tickets.get_lock():
        tickets.value -= 1
        return tickets.value >= 0


def _named_trial(search: Search, run: str, trial: Trial) -> float:
    trial.set_user_attr(_RUN, run)
    return run_trial(search, trial)
