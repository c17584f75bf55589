"""From requests to replies, one at a time or many together; no HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import TowncastError
from serving.predictions.api import PredictionApi, write_reply
from serving.schemas import PredictionRequest
from serving.service import ForecastResult, Outcome, Question
from serving.town import Town


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A reply, and the forecasts behind it."""

    reply: dict[str, Any]
    results: tuple[ForecastResult, ...]


async def answer(api: PredictionApi[Any], town: Town, request: PredictionRequest) -> Answered:
    """The reply to one request.

    Raises:
        TowncastError: There is none; the error says why.
    """
    began = time.perf_counter()
    targets, question = api.targets(request), _question(request)
    if len(targets) == 1:
        outcomes = {targets[0]: await _outcome(api, town, targets[0], question)}
    else:
        found = await asyncio.gather(*(_outcome(api, town, target, question) for target in targets))
        outcomes = dict(zip(targets, found, strict=True))
    return _answered(api, request, outcomes, began)


async def answer_many(
    api: PredictionApi[Any], town: Town, requests: Sequence[PredictionRequest]
) -> list[Answered | TowncastError]:
    """The replies to several requests: all that one model must run is run together."""
    began = time.perf_counter()
    questions: list[Question | None] = [None] * len(requests)
    asked: dict[str, list[int]] = {}
    outcomes: list[dict[str, Outcome]] = [{} for _ in requests]
    answers: dict[int, Answered | TowncastError] = {}
    for index, request in enumerate(requests):
        try:
            questions[index] = _question(request)
            for target in api.targets(request):
                asked.setdefault(target, []).append(index)
        except TowncastError as error:
            answers[index] = error
    for target, indices in asked.items():
        chosen = [question for index in indices if (question := questions[index]) is not None]
        found = await _outcomes(api, town, target, chosen)
        for index, outcome in zip(indices, found, strict=True):
            outcomes[index][target] = outcome
    for index, request in enumerate(requests):
        if index not in answers:
            try:
                answers[index] = _answered(api, request, outcomes[index], began)
            except TowncastError as error:
                answers[index] = error
    return [answers[index] for index in range(len(requests))]


def _question(request: PredictionRequest) -> Question:
    return Question(place=request.place(), horizon=request.forecast_horizon, explain=request.include_explanation)


async def _outcome(api: PredictionApi[Any], town: Town, target: str, question: Question) -> Outcome:
    try:
        return await town.service(api.domain, target).forecast(question)
    except TowncastError as error:
        return error


async def _outcomes(
    api: PredictionApi[Any], town: Town, target: str, questions: Sequence[Question]
) -> Sequence[Outcome]:
    try:
        return await town.service(api.domain, target).forecast_many(questions)
    except TowncastError as error:
        return [error] * len(questions)


def _answered(
    api: PredictionApi[Any], request: PredictionRequest, outcomes: Mapping[str, Outcome], began: float
) -> Answered:
    elapsed_ms = (time.perf_counter() - began) * 1e3
    content = api.content(request, outcomes)
    reply = write_reply(request, content, inference_time_ms=elapsed_ms)
    return Answered(reply=reply, results=content.results)
