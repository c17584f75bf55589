"""Requests and replies of the session API; the document's names where it gives them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serving.schemas import Reply, ShortName, StrictRequest
from serving.sessions.session import HistoryEntry, LogEntry, Page, Session
from serving.text import utc_text
from sim_env.process.system import PROCESSES, Process, Variable

_EXAMPLE_ID = "123e4567-e89b-12d3-a456-426614174000"

SessionId = Annotated[str, Field(min_length=1, max_length=64, examples=[_EXAMPLE_ID])]
VariableName = Annotated[str, Field(min_length=1, max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Values = Annotated[dict[VariableName, Finite], Field(max_length=64)]
StatesReply = Annotated[dict[str, float], Field(description="By name; GET /simulate/models tells their units.")]


class InitRequest(StrictRequest):
    """A simulation to begin."""

    model_name: ShortName = Field(
        examples=["water_tank"],
        description="GET /simulate/models tells what each is made of.",
        json_schema_extra={"enum": [*PROCESSES]},
    )
    params: Values = Field(default={}, description="Parameters that are not at their default.")
    initial_state: Values = Field(default={}, description="States that do not begin at their default.")


class StepRequest(StrictRequest):
    """A step to take."""

    session_id: SessionId
    control_input: Finite = Field(description="What the control is held at, in its unit.", examples=[10.0])
    delta_time: Finite = Field(gt=0, description="How long [s].", examples=[1.0])


class ResetRequest(StrictRequest):
    """A simulation to begin again."""

    session_id: SessionId
    params: Values | None = Field(default=None, description="Parameters to change; the others stay what they are.")


class ParamsRequest(StrictRequest):
    """Parameters to change."""

    session_id: SessionId
    params: Values = Field(description="The others stay what they are.")


class NoQuery(StrictRequest):
    """Nothing to choose."""


class PageQuery(StrictRequest):
    """Which entries of a history or a log."""

    start: int = Field(default=0, ge=0, description="Number of the first entry; `next` of the page before.")
    limit: int = Field(default=100, ge=1, le=1000, description="Most entries.")


class SessionBegun(Reply):
    """A simulation has begun."""

    session_id: str = Field(examples=[_EXAMPLE_ID], description="Who knows it may use the session.")
    expires_at: str = Field(examples=["2026-02-06T11:00:00Z"], description="Its end if it is not used before, UTC.")


class SessionReply(Reply):
    """A simulation as it is."""

    session_id: str = Field(examples=[_EXAMPLE_ID])
    model_name: str = Field(examples=["water_tank"])
    time_s: float = Field(description="Simulated time since the start or the last reset [s].")
    steps: int = Field(description="Steps since then.")
    state: StatesReply
    params: dict[str, float] = Field(description="All parameters by name.")
    created_at: str = Field(examples=["2026-02-06T10:00:00Z"])
    expires_at: str = Field(examples=["2026-02-06T11:00:00Z"], description="Its end if it is not used before, UTC.")


class HistoryItem(Reply):
    """A step."""

    step: int = Field(description="Its number; 0 is the start.")
    time_s: float = Field(description="Simulated time after it [s].")
    control_input: float | None = Field(description="What the control was held at; null at the start.")
    delta_time: float | None = Field(description="How long [s]; null at the start.")
    state: StatesReply


class LogItem(Reply):
    """A line of the log."""

    time: str = Field(examples=["2026-02-06T10:00:00Z"])
    level: str = Field(examples=["INFO"])
    message: str


class PageReply(Reply):
    """A page of a history or a log."""

    session_id: str = Field(examples=[_EXAMPLE_ID])
    first: int = Field(description="Number of the first entry here.")
    next: int | None = Field(description="`start` of the next page; null where this is the last.")
    total: int = Field(description="Entries that there ever were.")
    dropped: int = Field(description="The oldest entries, which were dropped because the newest alone are kept.")


class HistoryReply(PageReply):
    """Steps since the last reset, the oldest first."""

    entries: list[HistoryItem]


class LogsReply(PageReply):
    """What happened to the session, the oldest first."""

    entries: list[LogItem]


class VariableReply(Reply):
    """A state, a control or a parameter."""

    name: str
    unit: str
    default: float
    lower: float = Field(description="Smallest allowed value.")
    upper: float = Field(description="Largest allowed value.")
    description: str


class ProcessReply(Reply):
    """What can be simulated."""

    model_name: str = Field(examples=["water_tank"])
    states: list[VariableReply]
    control: VariableReply = Field(description="What `control_input` sets.")
    params: list[VariableReply]
    longest_step_s: float = Field(description="Largest `delta_time` [s].")


class ProcessesReply(Reply):
    """All that can be simulated."""

    models: list[ProcessReply]


def begun_reply(session: Session, *, expires_s: float) -> SessionBegun:
    """The answer to a session that began."""
    return SessionBegun(session_id=session.session_id, expires_at=utc_text(int(expires_s)))


def session_reply(session: Session, *, expires_s: float) -> SessionReply:
    """The answer that shows a session."""
    return SessionReply(
        session_id=session.session_id,
        model_name=session.process,
        time_s=session.time_s,
        steps=session.steps,
        state=dict(session.state),
        params=dict(session.parameters),
        created_at=utc_text(int(session.created_s)),
        expires_at=utc_text(int(expires_s)),
    )


def history_reply(page: Page[HistoryEntry]) -> HistoryReply:
    """The answer that shows steps."""
    entries = [
        HistoryItem(
            step=entry.step,
            time_s=entry.time_s,
            control_input=entry.control,
            delta_time=entry.delta_time_s,
            state=dict(entry.state),
        )
        for entry in page.entries
    ]
    return HistoryReply(
        session_id=page.session.session_id,
        first=page.first,
        next=page.following,
        total=page.total,
        dropped=page.dropped,
        entries=entries,
    )


def logs_reply(page: Page[LogEntry]) -> LogsReply:
    """The answer that shows a log."""
    entries = [
        LogItem(time=utc_text(int(entry.moment_s)), level=entry.level, message=entry.message) for entry in page.entries
    ]
    return LogsReply(
        session_id=page.session.session_id,
        first=page.first,
        next=page.following,
        total=page.total,
        dropped=page.dropped,
        entries=entries,
    )


def process_reply(process: Process) -> ProcessReply:
    """The answer that shows a process."""
    return ProcessReply(
        model_name=process.name,
        states=[_variable_reply(state) for state in process.states],
        control=_variable_reply(process.control),
        params=[_variable_reply(parameter) for parameter in process.parameters],
        longest_step_s=process.longest_step_s,
    )


def _variable_reply(variable: Variable) -> VariableReply:
    return VariableReply(
        name=variable.name,
        unit=variable.unit,
        default=variable.default,
        lower=variable.lower,
        upper=variable.upper,
        description=variable.description,
    )
