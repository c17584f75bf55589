"""The session API without its transport: begin a simulation, step it, look at it, change it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from features.errors import InvalidParameterError, TowncastError
from features.registry import Registry, nearest_names
from serving.sessions.session import Change, HistoryEntry, Level, LogEntry, Page, Session
from serving.sessions.stores import SessionStore
from sim_env.process.system import PROCESSES, ConvergenceError, Process, ProcessModel, Variable

# The document's name, for those who configure logging as it shows.
_LOG = logging.getLogger("SimulationManager")


class SimulationSessions:
    """Simulations of processes that go on from request to request, each isolated from all others.

    A session is data in a store; a model lives only as long as one step. So any worker can take the next one, and what
    fails leaves the session as it was. All methods may be called from any thread, and raise what the store raises.

    Args:
        store: Where the sessions are; closed with this.
        processes: What can be simulated.
        clock: Seconds since 1970.
        new_id: Draws ids that nobody can guess.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        processes: Registry[Process] = PROCESSES,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.processes = processes
        self._store = store
        self._clock = clock
        self._new_id = new_id

    def create(
        self,
        process: str,
        *,
        params: Mapping[str, float] | None = None,
        initial_state: Mapping[str, float] | None = None,
    ) -> Session:
        """Begin a session.

        Args:
            process: What to simulate.
            params: Parameters that are not at their default.
            initial_state: States that are not at their default.

        Raises:
            UnknownNameError: There is no such process.
            InvalidParameterError: A name or a value cannot be.
            SessionLimitError: There are too many sessions.
        """
        with _reported(f"A session of {process!r} cannot begin"):
            chosen = self.processes[process]
            self.sweep()
            with _model(chosen, params or {}, initial_state or {}, state_name="initial_state") as model:
                session = Session(
                    session_id=self._new_id(),
                    process=process,
                    parameters=_plain(model.parameters),
                    initial_state=_plain(initial_state or {}),
                    state=_plain(model.state),
                    time_s=0.0,
                    steps=0,
                    logged=0,
                    created_s=self._clock(),
                )
            message = f"The session began: {process} with {_listed(session.parameters)}"
            begun = self._logged(Change(session=session, history=(_start(session),)), "INFO", message)
            self._store.add(begun)
        _tell(begun)
        return begun.session

    def step(self, session_id: str, *, control_input: float, delta_time_s: float) -> Session:
        """Hold the control for a time.

        Args:
            session_id: Which session.
            control_input: Value of the process's control, in its unit.
            delta_time_s: How long [s].

        Raises:
            InvalidParameterError: The control or the time is outside what is allowed.
            ConvergenceError: The equations could not be solved.
        """

        def work(process: Process, session: Session) -> Change:
            with _model(process, session.parameters, session.state) as model:
                state = _plain(model.step(control_input, delta_time_s=delta_time_s))
            after = replace(session, state=state, time_s=session.time_s + delta_time_s, steps=session.steps + 1)
            entry = HistoryEntry(
                step=after.steps, time_s=after.time_s, control=control_input, delta_time_s=delta_time_s, state=state
            )
            return Change(session=after, history=(entry,))

        after = self._change(session_id, work)
        _LOG.debug("Session %s: step %d gave %s", session_id, after.steps, _listed(after.state))
        return after

    def reset(self, session_id: str, *, params: Mapping[str, float] | None = None) -> Session:
        """Go back to the session's initial state at time 0 and forget its history; its log stays.

        Args:
            session_id: Which session.
            params: Parameters to change; the others stay what they are.

        Raises:
            InvalidParameterError: A name or a value cannot be.
        """

        def work(process: Process, session: Session) -> Change:
            asked = {**session.parameters, **(params or {})}
            with _model(process, asked, session.initial_state, state_name="initial_state") as model:
                parameters, state = _plain(model.parameters), _plain(model.state)
            after = replace(session, parameters=parameters, state=state, time_s=0.0, steps=0)
            message = f"The session was reset after step {session.steps}, with {_listed(parameters)}"
            return self._logged(Change(session=after, history=(_start(after),), fresh=True), "INFO", message)

        return self._change(session_id, work)

    def update_params(self, session_id: str, params: Mapping[str, float]) -> Session:
        """Change some parameters from the next step on.

        Raises:
            InvalidParameterError: A name or a value cannot be; none was changed.
        """

        def work(process: Process, session: Session) -> Change:
            with _model(process, session.parameters, session.state) as model:
                _check_names(params, process.parameters, parent="params")
                model.update_parameters(params)
                after = replace(session, parameters=_plain(model.parameters), state=_plain(model.state))
            changed = {name: value for name, value in after.parameters.items() if value != session.parameters[name]}
            message = f"Parameters were changed after step {session.steps}: {_listed(changed) or 'to what they were'}"
            return self._logged(Change(session=after), "INFO", message)

        return self._change(session_id, work)

    def state(self, session_id: str) -> Session:
        """The session as it is."""
        with _reported(_named(session_id)):
            return self._store.read(session_id)

    def history(self, session_id: str, *, start: int = 0, limit: int = 100) -> Page[HistoryEntry]:
        """Steps since the last reset; number 0 is the start."""
        with _reported(_named(session_id)):
            return self._store.history(session_id, start=start, limit=limit)

    def logs(self, session_id: str, *, start: int = 0, limit: int = 100) -> Page[LogEntry]:
        """What happened to the session."""
        with _reported(_named(session_id)):
            return self._store.log(session_id, start=start, limit=limit)

    def expires_s(self) -> float:
        """When a session that is used now and then no more will end [s since 1970]."""
        return self._clock() + self._store.limits.ttl_s

    def sweep(self) -> None:
        """Forget the sessions that have expired."""
        for session_id in self._store.sweep():
            _LOG.info("Session %s expired", session_id)

    async def keep_sweeping(self, *, longest_wait_s: float = 60.0) -> None:
        """Forget expired sessions again and again, so that they go where no request comes either."""
        while True:
            await asyncio.sleep(min(self._store.limits.ttl_s, longest_wait_s))
            try:
                await asyncio.to_thread(self.sweep)
            except TowncastError as error:
                _LOG.error("Expired sessions cannot be forgotten: %s", error)

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _change(self, session_id: str, work: Callable[[Process, Session], Change]) -> Session:
        """Do some work on a session; an error of the work changes the session's log alone.

        Raises:
            TowncastError: That of the work.
        """

        def change(session: Session) -> Change:
            try:
                return work(self.processes[session.process], session)
            except TowncastError as error:
                message = f"Refused after step {session.steps}: {error}"
                return self._logged(Change(session=session, error=error), "ERROR", message)

        with _reported(_named(session_id)):
            made = self._store.update(session_id, change)
        _tell(made)
        if made.error is not None:
            raise made.error
        return made.session

    def _logged(self, change: Change, level: Level, message: str) -> Change:
        """The change, with a message in the session's log."""
        entry = LogEntry(moment_s=self._clock(), level=level, message=message)
        return replace(change, session=replace(change.session, logged=change.session.logged + 1), log=(entry,))


@contextmanager
def _model(
    process: Process, parameters: Mapping[str, float], state: Mapping[str, float], *, state_name: str = "state"
) -> Iterator[ProcessModel]:
    """A model that lives for the block; what it refuses is called what the request calls it.

    Raises:
        InvalidParameterError: A name or a value cannot be.
    """
    _check_names(parameters, process.parameters, parent="params")
    _check_names(state, process.states, parent=state_name)
    prefixes = {process.control.name: "control_input", "parameters.": "params.", "state.": f"{state_name}."}
    try:
        with closing(process.native(parameters=parameters, state=state)) as model:
            yield model
    except InvalidParameterError as error:
        prefix = next((prefix for prefix in prefixes if error.parameter.startswith(prefix)), "")
        raise InvalidParameterError(
            parameter=prefixes.get(prefix, "") + error.parameter.removeprefix(prefix),
            provided=error.provided,
            allowed=error.allowed,
            fact=error.fact,
            remedy=error.remedy,
            nearest=error.nearest,
        ) from error


def _check_names(given: Mapping[str, float], variables: Sequence[Variable], *, parent: str) -> None:
    """Refuse a name that the process does not know.

    Raises:
        InvalidParameterError: There is one; near names are in the error.
    """
    known = [variable.name for variable in variables]
    for name in given:
        if name not in known:
            raise InvalidParameterError(
                parameter=f"{parent}.{name}",
                provided=given[name],
                allowed=known,
                fact=f"The process has nothing called {name!r}",
                remedy=f"Known are: {', '.join(known)}.",
                nearest=nearest_names(name, known),
            )


def _start(session: Session) -> HistoryEntry:
    return HistoryEntry(step=0, time_s=0.0, control=None, delta_time_s=None, state=session.state)


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    """Finite numbers that JSON can hold.

    Raises:
        ConvergenceError: One is not finite: stored, it could never be stepped again.
    """
    plain = {name: float(value) for name, value in values.items()}
    if not all(map(math.isfinite, plain.values())):
        remedy = "Take a shorter step, or a less extreme control."
        raise ConvergenceError("The solver gave a value that is not finite", found=_listed(plain), remedy=remedy)
    return plain


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _named(session_id: str) -> str:
    return f"Session {session_id!r}"


def _tell(made: Change) -> None:
    """Say in the process's log what the session's log says."""
    for entry in made.log:
        _LOG.log(logging.getLevelNamesMapping()[entry.level], "Session %s: %s", made.session.session_id, entry.message)


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Log an error that no session's log can hold."""
    try:
        yield
    except TowncastError as error:
        # What was found may come from a caller, who must not fill the log.
        _LOG.warning("%.100s: %.300s", what, error)
        raise
