"""GEKKO as the solver of a living model: one GEKKO object, kept from step to step, solved on this machine.

L. D. R. Beal, D. C. Hill, R. A. Martin and J. D. Hedengren, GEKKO Optimization Suite, Processes 6 (8), 2018: orthogonal
collocation on finite elements, here with three nodes (Radau, third order), solved by IPOPT as a dynamic simulation.

Every solve is told the state that it starts from, the control and all parameters. GEKKO's own memory of the last step
is thus a first guess and no more: a measured state takes effect, and a step that failed leaves nothing behind.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import StorageError
from features.files import storage_errors
from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.native import path
from sim_env.process.system import ConvergenceError

# The elements are the sub-steps of native integration at this precision: fine where the state changes fast.
GRID_PRECISION = 1e-9
MOST_ELEMENTS = 1000
TIME_LIMIT_S = 10.0

_MEMORY_FOLDER = Path("/dev/shm")
_TEMPORARY_FOLDER = threading.Lock()


class GekkoSolver:
    """Solves a process with GEKKO (local solver IPOPT, IMODE 4, NODES 3, TIME_SHIFT 1).

    The object and its folder are made at the first step, in memory where the system has such a file system, and go at
    `close`, after a failed step, and at the latest with the solver itself.

    Args:
        process: Its equations.
        time_limit_s: Longest time that one solve may take [s].
    """

    def __init__(self, process: DifferentialProcess, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._process = process
        self._time_limit_s = time_limit_s
        self._alive: _GekkoObject | None = None

    def advance(
        self, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
    ) -> FloatArray:
        """The state after the step.

        Raises:
            ConvergenceError: IPOPT found no solution, or not in time.
            StorageError: The folder of the solver cannot be written.
        """
        time_N, guess_NS = path(
            self._process,
            state_S,
            control,
            parameter_P,
            delta_time_s=delta_time_s,
            precision=GRID_PRECISION,
            most=MOST_ELEMENTS,
        )
        if self._alive is None:
            self._alive = _GekkoObject(self._process, self._time_limit_s)
        try:
            return self._alive.solve(time_N, guess_NS, control, parameter_P)
        except BaseException:
            # Whatever went wrong, a later step must not start from its remains.
            self.close()
            raise

    def close(self) -> None:
        """Remove the GEKKO object with its folder."""
        if self._alive is not None:
            self._alive.close()
            self._alive = None


class _GekkoObject:
    """A built GEKKO model with its folder."""

    def __init__(self, process: DifferentialProcess, time_limit_s: float) -> None:
        from gekko import GEKKO

        self._process = process
        with storage_errors(Path(tempfile.gettempdir())), _folders_in_memory():
            self._model = GEKKO(remote=False)
        self._remove = weakref.finalize(self, shutil.rmtree, self._model._path, ignore_errors=True)
        options = self._model.options
        options.IMODE, options.NODES, options.SOLVER, options.TIME_SHIFT = 4, 3, 3, 1
        options.MAX_TIME = time_limit_s
        self._control = self._model.Param(process.control.default, name=process.control.name)
        self._parameters = {v.name: self._model.Param(v.default, name=v.name) for v in process.parameters}
        self._states = {v.name: self._model.Var(v.default, name=v.name) for v in process.states}
        rates = process.gekko_rates(self._model, self._states, self._control, self._parameters)
        self._model.Equations([self._states[name].dt() == rate for name, rate in rates.items()])

    def solve(self, time_N: FloatArray, guess_NS: FloatArray, control: float, parameter_P: FloatArray) -> FloatArray:
        """The state at the last of the times."""
        # What only counts begins at 0, lest a large count cost the small change its digits.
        counted_S = np.array([name in self._process.accumulated for name in self._states])
        counted_from_S = np.where(counted_S, guess_NS[0], 0.0)
        self._model.time = time_N
        self._control.value = control
        for parameter, value in zip(self._parameters.values(), parameter_P.tolist(), strict=True):
            parameter.value = value
        for state, guess_N in zip(self._states.values(), (guess_NS - counted_from_S).T, strict=True):
            state.value = guess_N.tolist()
        try:
            for pattern in ("*.t0", "*.dxdt", "results.json", "options.json"):
                for file in Path(self._model._path).glob(pattern):
                    file.unlink()
            with storage_errors(Path(self._model._path)):
                self._model.solve(disp=False, debug=1)
        except StorageError:
            raise
        except Exception as error:  # GEKKO raises nothing narrower.
            raise self._failed(control, time_N, str(error)) from error
        after_S = np.array([state.value[-1] for state in self._states.values()], dtype=np.float64)
        if self._model.options.APPSTATUS != 1 or not np.isfinite(after_S).all():
            raise self._failed(control, time_N, "no solution")
        return after_S + counted_from_S

    def _failed(self, control: float, time_N: FloatArray, reason: str) -> ConvergenceError:
        said = " ".join(reason.split())[:200]
        return ConvergenceError(
            f"GEKKO did not solve a step of {time_N[-1]:g} s of the {self._process.name} "
            f"at {self._process.control.name} = {control:g} {self._process.control.unit}",
            found=said,
            remedy="The state is unchanged: take a shorter step, or another control.",
        )

    def close(self) -> None:
        self._remove()


@contextmanager
def _folders_in_memory() -> Iterator[None]:
    """Temporary folders go to memory within the block, where there is such a file system: GEKKO talks by files."""
    with _TEMPORARY_FOLDER:
        before = tempfile.tempdir
        tempfile.tempdir = str(_MEMORY_FOLDER) if _MEMORY_FOLDER.is_dir() else before
        try:
            yield
        finally:
            tempfile.tempdir = before
