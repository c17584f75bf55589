"""GEKKO as the solver of a living model: one GEKKO object, kept from step to step, solved on this machine.

L. D. R. Beal, D. C. Hill, R. A. Martin and J. D. Hedengren, GEKKO Optimization Suite, Processes 6 (8), 2018: orthogonal
collocation on finite elements, solved by IPOPT as a dynamic simulation. Three nodes lie at the beginning, the middle
and the end of an element: the stability function is (1 + z/4) / (1 - 3z/4 + z^2/4), so an element of length h errs by
h^3/24 |y'''|. The elements of a step are chosen by that, y''' being taken from native integration: few where the state
changes slowly, many where the reactor ignites. What GEKKO solves on them are its own equations.

Every solve is told the state that it starts from, and GEKKO's files of the solve before are taken away: a measured
state takes effect, a step that failed leaves nothing behind, and a solver that crashed is not answered for by the
results before (it crashes, without a word, where it finds a file of another number of elements).

Array names carry their axes: S states, P parameters, N times.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from features.errors import StorageError
from features.files import storage_errors
from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.native import rates_on_the_way
from sim_env.process.system import ConvergenceError

TIME_LIMIT_S = 10.0
# What the elements of a step may add up to, as a share of the difference that a process tolerates; and what one need
# not go below, since in a long step most of what the first ones err is forgotten before its end.
STEP_SHARE = 0.15
ELEMENT_SHARE = 0.003
# More elements at once are hard for IPOPT where the state runs away; a longer step is solved in parts.
MOST_ELEMENTS = 40

_LOCAL_ERROR = 1.0 / 24.0
_SLOWEST, _MOST_GROWTH, _LEAST = 1e-12, 1e4, 1e-9
_LAST_SOLVE = ("sim.t0", "ic.t0", "sim.dxdt", "results.json", "options.json")
_MEMORY_FOLDER = Path("/dev/shm")
_TEMPORARY_FOLDER = threading.Lock()


class GekkoSolver:
    """Solves a process with GEKKO (local solver IPOPT, IMODE 4, NODES 3, TIME_SHIFT 1).

    The object and its folder are made at the first step, in memory where the system has such a file system, and go at
    `close`, after a failed step, and at the latest with the solver itself.

    Args:
        process: Its equations.
        time_limit_s: Longest time that one step may take [s].
    """

    def __init__(self, process: DifferentialProcess, *, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._process = process
        self.time_limit_s = time_limit_s
        self._alive: _GekkoObject | None = None
        self._changing: frozenset[str] = frozenset()

    def advance(
        self, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
    ) -> FloatArray:
        """The state after the step.

        Raises:
            ConvergenceError: IPOPT found no solution, or not in time.
            StorageError: The folder of the solver cannot be written.
        """
        time_N = elements(self._process, state_S, control, parameter_P, delta_time_s=delta_time_s)
        deadline_s = time.monotonic() + self.time_limit_s
        alive = self._suited(parameter_P)
        try:
            for first in range(0, len(time_N) - 1, MOST_ELEMENTS):
                part_N = time_N[first : first + MOST_ELEMENTS + 1]
                left_s = deadline_s - time.monotonic()
                state_S = alive.solve(state_S, control, parameter_P, part_N - part_N[0], time_limit_s=left_s)
        except BaseException:
            # Whatever went wrong, a later step must not start from its remains.
            self.close()
            raise
        return state_S

    def _suited(self, parameter_P: FloatArray) -> _GekkoObject:
        """The living object; a new one where none lives, or a number in its equations has changed."""
        values = dict(zip((variable.name for variable in self._process.parameters), parameter_P.tolist(), strict=True))
        changed = self._alive.numbers.items() - values.items() if self._alive is not None else set()
        if changed:
            self._changing |= {name for name, _ in changed}
            self.close()
        if self._alive is None:
            self._alive = _GekkoObject(self._process, values, self._changing)
        return self._alive

    def close(self) -> None:
        """Remove the GEKKO object with its folder."""
        if self._alive is not None:
            self._alive.close()
            self._alive = None


def elements(
    process: DifferentialProcess, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
) -> FloatArray:
    """Times [s] from 0 to the step's end between which collocation errs evenly, and little enough.

    Raises:
        ConvergenceError: Native integration finds no solution.
    """
    time_N, rate_NS = rates_on_the_way(process, state_S, control, parameter_P, delta_time_s=delta_time_s)
    if len(time_N) < 3:
        return np.array([0.0, delta_time_s])
    slope_NS = np.diff(rate_NS, axis=0) / np.diff(time_N)[:, None]
    third_NS = 2.0 * np.diff(slope_NS, axis=0) / (time_N[2:] - time_N[:-2])[:, None]
    tolerance_S = np.array([process.tolerance[variable.name] for variable in process.states])
    # An error shifts the rest of the way in time, so by the end it has grown as the rates have.
    speed_N = np.abs(rate_NS / tolerance_S).max(axis=1)
    growth_N = np.clip(speed_N[-1] / np.maximum(speed_N[1:-1], _SLOWEST), 1.0, _MOST_GROWTH)
    error_N = _LOCAL_ERROR * np.abs(third_NS / tolerance_S).max(axis=1) * growth_N
    # Between two times, the worse of the estimates at both; a little everywhere, so that none is left out.
    error_N = np.maximum(np.append(error_N, error_N[-1]), np.append(error_N[0], error_N)) + _LEAST / delta_time_s**3
    due_N = np.append(0.0, np.cumsum(np.cbrt(error_N) * np.diff(time_N)))
    # N elements that err evenly, due^3 / N^3 each.
    share = max(ELEMENT_SHARE, (STEP_SHARE / max(due_N[-1], STEP_SHARE)) ** 1.5)
    count = max(1, math.ceil(due_N[-1] / np.cbrt(share)))
    return np.interp(np.linspace(0.0, due_N[-1], count + 1), due_N, time_N)


class _GekkoObject:
    """A built GEKKO model with its folder.

    Each name that the solver reads costs it a tenth of its time, so a parameter is a number in the equations until it
    changes for the first time, and a GEKKO parameter from then on.
    """

    def __init__(self, process: DifferentialProcess, values: Mapping[str, float], changing: frozenset[str]) -> None:
        from gekko import GEKKO

        self._process = process
        with storage_errors(Path(tempfile.gettempdir())), _folders_in_memory():
            self._model = GEKKO(remote=False)
        self._folder = Path(self._model._path)
        self._last_solve = [self._folder / name for name in _LAST_SOLVE]
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        options = self._model.options
        options.IMODE, options.NODES, options.SOLVER, options.TIME_SHIFT = 4, 3, 3, 1
        self._control = self._model.Param(process.control.default, name=process.control.name)
        self.numbers = {name: value for name, value in values.items() if name not in changing}
        self._parameters = {name: self._model.Param(values[name], name=name) for name in sorted(changing)}
        self._positions = [[variable.name for variable in process.parameters].index(name) for name in self._parameters]
        self._states = {v.name: self._model.Var(v.default, name=v.name) for v in process.states}
        self._counts_S = np.array([name in process.accumulated for name in self._states])
        rates = process.gekko_rates(self._model, self._states, self._control, self.numbers | self._parameters)
        self._model.Equations([self._states[name].dt() == rate for name, rate in rates.items()])

    def solve(
        self,
        state_S: FloatArray,
        control: float,
        parameter_P: FloatArray,
        time_N: FloatArray,
        *,
        time_limit_s: float,
    ) -> FloatArray:
        """The state at the last of the times."""
        # What only counts begins at 0, lest a large count cost the small change its digits.
        counted_S = np.where(self._counts_S, state_S, 0.0)
        self._model.time = time_N
        self._model.options.MAX_TIME = max(time_limit_s, 0.0)
        self._control.value = control
        for parameter, value in zip(self._parameters.values(), parameter_P[self._positions].tolist(), strict=True):
            parameter.value = value
        for state, value in zip(self._states.values(), (state_S - counted_S).tolist(), strict=True):
            state.value = value
        try:
            with storage_errors(self._folder):
                for file in self._last_solve:
                    file.unlink(missing_ok=True)
                self._model.solve(disp=False, debug=1)
        except StorageError:
            raise
        except Exception as error:  # GEKKO raises nothing narrower.
            raise self._failed(control, time_N, str(error)) from error
        after_S = np.array([state.value[-1] for state in self._states.values()], dtype=np.float64)
        if self._model.options.APPSTATUS != 1 or not np.isfinite(after_S).all():
            raise self._failed(control, time_N, "no solution")
        return after_S + counted_S

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
