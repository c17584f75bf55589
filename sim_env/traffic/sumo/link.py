"""Two ways to a running SUMO: the library in this process, and a process of its own behind TraCI."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from sim_env.traffic.engine import EngineError


class SumoFailure(Exception):
    """SUMO answered with an error, or is gone; the text is its own."""


class Link(Protocol):
    """A way to SUMO; `domains` is the module or connection that holds `vehicle`, `edge` and the like."""

    domains: Any

    def start(self, options: Sequence[str]) -> None:
        """Load a simulation, in the running SUMO or a new one."""

    def watch(self, edge_ids: Sequence[str]) -> None:
        """Name the edges that `read` reads."""

    def advance(self, until_s: float) -> None:
        """Simulate up to a moment."""

    def read(self) -> tuple[list[int], list[float]]:
        """Number and mean speed [m/s] of the vehicles on each watched edge."""

    def failures(self) -> contextlib.AbstractContextManager[None]:
        """Turn SUMO's exceptions into `SumoFailure`."""

    def close(self) -> None:
        """End SUMO, also when it is dead or was never started."""


class LibsumoLink:
    """SUMO inside this process; there can be one at a time, since a second start would silently wipe the first."""

    _taken = threading.Lock()
    _owner_pid = 0

    def __init__(self) -> None:
        self.domains: Any = None
        self._loaded = False
        self._edge_ids: tuple[str, ...] = ()

    def start(self, options: Sequence[str]) -> None:
        """Load a simulation; the library, once loaded, is used again.

        Raises:
            EngineError: Another engine of this process holds the library.
            SumoFailure: SUMO refuses the options or a file.
        """
        if self.domains is None:
            library = _libsumo()
            self._take(library)
            self.domains = library
        with self.failures(), _captured_output() as told:
            try:
                if self._loaded:
                    self.domains.load(list(options))
                else:
                    self.domains.start(["sumo", *options])
            except self.domains.TraCIException as error:
                raise SumoFailure(told() or str(error)) from error
        self._loaded = True

    def watch(self, edge_ids: Sequence[str]) -> None:
        """Name the edges that `read` reads."""
        self._edge_ids = tuple(edge_ids)

    def advance(self, until_s: float) -> None:
        """Simulate up to a moment."""
        self.domains.simulationStep(until_s)

    def read(self) -> tuple[list[int], list[float]]:
        """Number and mean speed [m/s] of the vehicles on each watched edge."""
        # Plain calls: in process they are faster than subscriptions.
        count, speed = self.domains.edge.getLastStepVehicleNumber, self.domains.edge.getLastStepMeanSpeed
        return [count(name) for name in self._edge_ids], [speed(name) for name in self._edge_ids]

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turn SUMO's exceptions into `SumoFailure`."""
        try:
            yield
        except (self.domains.TraCIException, self.domains.FatalTraCIError) as error:
            raise SumoFailure(str(error)) from error

    def close(self) -> None:
        """End the simulation and free the library for another engine."""
        if self.domains is None:
            return
        try:
            with _captured_output(), contextlib.suppress(self.domains.TraCIException, self.domains.FatalTraCIError):
                self.domains.close()
        finally:
            self.domains, self._loaded = None, False
            LibsumoLink._owner_pid = 0
            LibsumoLink._taken.release()

    @staticmethod
    def _take(library: Any) -> None:
        # A forked child inherits the lock and a copy of the simulation, but not the engine that holds them.
        inherited = LibsumoLink._owner_pid not in (0, os.getpid())
        if inherited:
            LibsumoLink._taken = threading.Lock()
        taken = LibsumoLink._taken.acquire(blocking=False)
        # Somebody may have started the library without us.
        if taken and not inherited and library.isLoaded():
            LibsumoLink._taken.release()
            taken = False
        if not taken:
            raise EngineError(
                "This process runs a SUMO engine already, and its library knows one simulation",
                found=f"process {os.getpid()}",
                remedy='Close the other engine, use another process, or choose link="traci".',
            )
        LibsumoLink._owner_pid = os.getpid()


class TraciLink:
    """SUMO as a process of its own; there can be many.

    Args:
        folder: Where SUMO's own words are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.domains: Any = None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._edge_ids: tuple[str, ...] = ()

    def start(self, options: Sequence[str]) -> None:
        """Load a simulation in the running process, or in a new one.

        Raises:
            SumoFailure: SUMO refuses the options or a file.
        """
        if self.domains is not None:
            with self.failures():
                self.domains.load(list(options))
            return
        # Another program may take the free port before SUMO does.
        for attempt in range(3):
            try:
                self._launch(options)
                return
            except SumoFailure as failure:
                self.close()
                if "ddress already in use" not in str(failure) or attempt == 2:
                    raise

    def _launch(self, options: Sequence[str]) -> None:
        import traci

        port = _free_port()
        words = [str(sumo_program("sumo")), *options, "--remote-port", str(port)]
        with (self._folder / "sumo.txt").open("wb") as told:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT)
        # A large network takes SUMO minutes to load before it listens; as long as it lives there is reason to wait.
        while self.domains is None:
            if self._process.poll() is not None:
                raise SumoFailure(self._last_words() or f"it ended with status {self._process.returncode}")
            with contextlib.suppress(OSError), contextlib.redirect_stdout(io.StringIO()):
                self.domains = traci.connection.Connection("127.0.0.1", port, self._process, None, False, None)
            if self.domains is None:
                time.sleep(0.02)
        with self.failures():
            self.domains.getVersion()

    def watch(self, edge_ids: Sequence[str]) -> None:
        """Name the edges that `read` reads."""
        from traci import constants

        self._edge_ids = tuple(edge_ids)
        for name in self._edge_ids:
            self.domains.edge.subscribe(name, (constants.LAST_STEP_VEHICLE_NUMBER, constants.LAST_STEP_MEAN_SPEED))

    def advance(self, until_s: float) -> None:
        """Simulate up to a moment."""
        self.domains.simulationStep(until_s)

    def read(self) -> tuple[list[int], list[float]]:
        """Number and mean speed [m/s] of the vehicles on each watched edge."""
        from traci import constants

        results = self.domains.edge.getAllSubscriptionResults()
        rows = [results[name] for name in self._edge_ids]
        return (
            [row[constants.LAST_STEP_VEHICLE_NUMBER] for row in rows],
            [row[constants.LAST_STEP_MEAN_SPEED] for row in rows],
        )

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turn SUMO's exceptions and a broken connection into `SumoFailure`."""
        from traci.exceptions import FatalTraCIError, TraCIException

        try:
            yield
        except TraCIException as error:
            raise SumoFailure(str(error)) from error
        except (FatalTraCIError, OSError) as error:
            raise SumoFailure(self._last_words() or f"the process is gone: {error}") from error

    def close(self) -> None:
        """End the process; one that does not end at once is killed."""
        process, self._process = self._process, None
        connection, self.domains = self.domains, None
        if connection is not None:
            self._hang_up(connection)
        if process is None:
            return
        try:
            process.wait(timeout=5.0 if connection is not None else 0.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _hang_up(self, connection: Any) -> None:
        from traci.exceptions import FatalTraCIError, TraCIException

        with contextlib.suppress(FatalTraCIError, TraCIException, OSError, AttributeError):
            # One that is in the middle of a long step, as after Ctrl-C, is not waited for.
            connection._socket.settimeout(2.0)
            connection.close(False)

    def _last_words(self) -> str:
        if self._process is not None:
            # The connection breaks a moment before the process has written why.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2.0)
        path = self._folder / "sumo.txt"
        return _last_error(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else ""


def sumo_program(name: str) -> Path:
    """The path of one of SUMO's own programs; those on the PATH are slow scripts around them.

    Raises:
        EngineError: SUMO is not installed.
    """
    try:
        import sumo
    except ImportError as error:
        raise EngineError(
            "SUMO is not installed", found=str(error), remedy='Install it: pip install "towncast[sim]".'
        ) from error
    return Path(sumo.SUMO_HOME) / "bin" / name


def _libsumo() -> Any:
    """The library, without its greeting: it warns of another libarrow, which we do not use through it."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            import libsumo
        except ImportError as error:
            raise EngineError(
                "SUMO's library is not installed", found=str(error), remedy='Install it: pip install "towncast[sim]".'
            ) from error
    return libsumo


@contextlib.contextmanager
def _captured_output() -> Iterator[Any]:
    """Keep what C++ writes to the terminal while a simulation loads; yields a function that gives its last error."""
    with tempfile.TemporaryFile() as kept:
        saved = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in saved:
            os.dup2(kept.fileno(), number)

        def told() -> str:
            kept.seek(0)
            return _last_error(kept.read().decode(errors="replace"))

        try:
            yield told
        finally:
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)


def _last_error(text: str) -> str:
    """The last error in SUMO's words, with the indented lines that belong to it; empty if it told none."""
    errors: list[str] = []
    for line in text.splitlines():
        if line.startswith("Error: "):
            errors.append(line.removeprefix("Error: "))
        elif errors and line.startswith(" "):
            errors[-1] += f" {line.strip()}"
    return " ".join(errors[-3:])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
