"""`/simulate/...`: simulations that go on from request to request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from features.errors import TowncastError
from serving.errors import malformed, refusal
from serving.metrics import Metrics
from serving.routes.direct import DirectRoute, check_media_type, request_body
from serving.schemas import ErrorReply, Reply
from serving.sessions.schemas import (
    HistoryReply,
    InitRequest,
    LogsReply,
    NoQuery,
    PageQuery,
    ParamsRequest,
    ProcessesReply,
    ResetRequest,
    SessionBegun,
    SessionReply,
    StepRequest,
    begun_reply,
    history_reply,
    logs_reply,
    process_reply,
    session_reply,
)
from serving.sessions.service import SimulationSessions
from serving.sessions.session import Session

Asked = TypeVar("Asked", bound=BaseModel)

_EXAMPLE_ID = "123e4567-e89b-12d3-a456-426614174000"
_UNKNOWN_MODEL = {"model": ErrorReply, "description": "There is no such model; near names are in `details`."}
_LOST: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "There is no such session."},
    410: {"model": ErrorReply, "description": "The session has expired."},
    503: {"model": ErrorReply, "description": "The store of sessions does not answer, or is full."},
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is not as documented, or a value is not allowed."},
}
_BODY_REFUSED: dict[int | str, dict[str, Any]] = {
    **_REFUSED,
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not said to be JSON."},
}
_CHANGE_REFUSED: dict[int | str, dict[str, Any]] = {
    **_BODY_REFUSED,
    **_LOST,
    409: {"model": ErrorReply, "description": "Too many changes of the session came at once."},
    422: {"model": ErrorReply, "description": "The equations have no solution there; the session is as it was."},
}


def session_request_models() -> list[type[BaseModel]]:
    """The layouts of all requests."""
    return [InitRequest, StepRequest, ResetRequest, ParamsRequest]


def session_routes(sessions: SimulationSessions, metrics: Metrics) -> APIRouter:
    """All that a simulation can be asked."""
    router = APIRouter(tags=["simulation"], route_class=DirectRoute)
    _add_models(router, sessions, metrics)
    _add_changes(router, sessions, metrics)
    _add_views(router, sessions, metrics)
    return router


def _add_models(router: APIRouter, sessions: SimulationSessions, metrics: Metrics) -> None:
    path = "/simulate/models"

    @router.get(
        path,
        name="simulate_models",
        summary="What can be simulated?",
        description="The models with their states, control and parameters, in which units and ranges.",
        response_model=ProcessesReply,
    )
    async def models(request: Request) -> Response:
        reply = ProcessesReply(models=[process_reply(process) for process in sessions.processes.values()])
        metrics.count_request(path, 200, "GET")
        return _json(reply)


def _add_changes(router: APIRouter, sessions: SimulationSessions, metrics: Metrics) -> None:
    """The routes that have a body."""

    def shown(session: Session) -> SessionReply:
        return session_reply(session, expires_s=sessions.expires_s())

    def begin(asked: InitRequest) -> SessionBegun:
        session = sessions.create(asked.model_name, params=asked.params, initial_state=asked.initial_state)
        return begun_reply(session, expires_s=sessions.expires_s())

    def step(asked: StepRequest) -> SessionReply:
        return shown(sessions.step(asked.session_id, control_input=asked.control_input, delta_time_s=asked.delta_time))

    _add_change(
        router,
        metrics,
        "/simulate/init",
        begin,
        asked=InitRequest,
        answered=SessionBegun,
        summary="Begin a simulation",
        description="A session of its own: no other sees its state, history or log. It ends by itself where it is not "
        "used for a while.",
        example={"model_name": "water_tank", "params": {}},
        responses={**_BODY_REFUSED, 404: _UNKNOWN_MODEL, 503: _LOST[503]},
    )
    _add_change(
        router,
        metrics,
        "/simulate/step",
        step,
        asked=StepRequest,
        answered=SessionReply,
        summary="Take a step",
        description="Holds the control for a time. A step that fails leaves the session as it was.",
        example={"session_id": _EXAMPLE_ID, "control_input": 10.0, "delta_time": 1.0},
    )
    _add_change(
        router,
        metrics,
        "/simulate/reset",
        lambda asked: shown(sessions.reset(asked.session_id, params=asked.params)),
        asked=ResetRequest,
        answered=SessionReply,
        summary="Begin again",
        description="Back to the state that the session began with, at time 0 and without history. Parameters stay "
        "what they are, but those that are given; so does the log.",
        example={"session_id": _EXAMPLE_ID, "params": {}},
    )
    _add_change(
        router,
        metrics,
        "/simulate/params",
        lambda asked: shown(sessions.update_params(asked.session_id, asked.params)),
        method="PATCH",
        asked=ParamsRequest,
        answered=SessionReply,
        summary="Change parameters",
        description="From the next step on; all that are given or, where one cannot be, none.",
        example={"session_id": _EXAMPLE_ID, "params": {}},
    )


def _add_change(
    router: APIRouter,
    metrics: Metrics,
    path: str,
    work: Callable[[Asked], Reply],
    *,
    asked: type[Asked],
    answered: type[Reply],
    summary: str,
    description: str,
    example: dict[str, Any],
    method: str = "POST",
    responses: dict[int | str, dict[str, Any]] = _CHANGE_REFUSED,
) -> None:
    async def change(request: Request) -> Response:
        async def read() -> Asked:
            check_media_type(request.headers.get("content-type", ""))
            return asked.model_validate_json(await request.body())

        return await _answer(metrics, (request.method, path), read, work, fields=asked.model_fields)

    router.add_api_route(
        path,
        change,
        methods=[method],
        name=path.strip("/").replace("/", "_"),
        summary=summary,
        description=description,
        response_model=answered,
        responses=responses,
        openapi_extra=request_body(asked, {"example": {"summary": summary, "value": example}}),
    )


def _add_views(router: APIRouter, sessions: SimulationSessions, metrics: Metrics) -> None:
    """The routes that name a session in their path."""
    _add_view(
        router,
        metrics,
        "/simulate/state/{session_id}",
        lambda session_id, query: session_reply(sessions.state(session_id), expires_s=sessions.expires_s()),
        query=NoQuery,
        answered=SessionReply,
        summary="Where is it?",
        description="State, parameters and simulated time.",
    )
    _add_view(
        router,
        metrics,
        "/simulate/history/{session_id}",
        lambda session_id, query: history_reply(sessions.history(session_id, start=query.start, limit=query.limit)),
        query=PageQuery,
        answered=HistoryReply,
        summary="How did it get there?",
        description="The steps since the last reset, page by page. The newest alone are kept: `dropped` says how many "
        "are not.",
    )
    _add_view(
        router,
        metrics,
        "/simulate/logs/{session_id}",
        lambda session_id, query: logs_reply(sessions.logs(session_id, start=query.start, limit=query.limit)),
        query=PageQuery,
        answered=LogsReply,
        summary="What happened?",
        description="The session's own log, page by page: its start, changed parameters, resets, and what was refused "
        "and why. The newest entries alone are kept.",
    )


def _add_view(
    router: APIRouter,
    metrics: Metrics,
    path: str,
    work: Callable[[str, Asked], Reply],
    *,
    query: type[Asked],
    answered: type[Reply],
    summary: str,
    description: str,
) -> None:
    async def view(request: Request) -> Response:
        async def read() -> Asked:
            return query.model_validate_strings(dict(request.query_params))

        session_id: str = request.path_params["session_id"]
        return await _answer(
            metrics, (request.method, path), read, lambda asked: work(session_id, asked), fields=query.model_fields
        )

    router.add_api_route(
        path,
        view,
        name=path.partition("/{")[0].strip("/").replace("/", "_"),
        summary=summary,
        description=description,
        response_model=answered,
        responses=_REFUSED | _LOST,
        openapi_extra={"parameters": _parameters(query)},
    )


def _parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """What the OpenAPI document says of the id in the path, and of the query."""
    in_path = {"name": "session_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    described: dict[str, dict[str, Any]] = query.model_json_schema().get("properties", {})
    in_query = [{"name": name, "in": "query", "required": False, "schema": one} for name, one in described.items()]
    return [in_path, *in_query]


async def _answer(
    metrics: Metrics,
    route: tuple[str, str],
    read: Callable[[], Awaitable[Asked]],
    work: Callable[[Asked], Reply],
    *,
    fields: Iterable[str],
) -> Response:
    """Read, work in a thread (a store may be far, and the first step of a process is compiled), write."""
    try:
        reply = _json(await run_in_threadpool(work, await read()))
    except UnicodeDecodeError as error:
        reply = refusal(malformed(str(error))).reply()
    except (ValidationError, TowncastError) as error:
        reply = refusal(error, fields=fields).reply()
    method, path = route
    metrics.count_request(path, reply.status_code, method)
    return reply


def _json(reply: Reply) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json")
