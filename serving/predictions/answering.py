"""From requests to replies, one at a time or many together; no HTTP.

Of a reply, all but its identifier, its time and its quality depends on kept forecasts and on what was asked to be in
it: that part is written once, and copied into each reply as bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from features.errors import TowncastError
from serving.errors import NotReadyError
from serving.predictions.api import Content, PredictionApi, write_head, write_quality
from serving.quality import Quality, worst
from serving.schemas import PredictionRequest
from serving.service import ForecastResult, Outcome, Question
from serving.text import new_id
from serving.town import Town

_JSON = msgspec.json.Encoder()
# Forms of a reply that are kept with a forecast: a caller who draws others by chance must not fill the memory.
_MOST_FORMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A reply, and the forecasts behind it.

    Attributes:
        request_id: Of the request, or one that was made for it.
        body: The reply as JSON.
        elapsed_ms: Time from the parsed request to the forecast [ms].
        results: The forecasts.
    """

    request_id: str
    body: bytes
    elapsed_ms: float
    results: tuple[ForecastResult, ...]

    @property
    def reply(self) -> dict[str, Any]:
        """The reply, read again."""
        content: dict[str, Any] = msgspec.json.decode(self.body)
        return content


@dataclass(slots=True, kw_only=True)
class _Form:
    """What was written of replies of one kind to one forecast: the head, and the last quality."""

    head: bytes
    targets: tuple[str, ...]
    place: tuple[str, str]
    more_quality: Mapping[str, Any]
    qualities: tuple[Quality, ...] = ()
    quality: bytes = b""


async def answer(api: PredictionApi[Any], town: Town, request: PredictionRequest) -> Answered:
    """The reply to one request.

    Raises:
        TowncastError: There is none; the error says why.
    """
    began = time.perf_counter()
    targets, question = api.targets(request), _question(request)
    outcomes = _kept(api, town, targets, question)
    if outcomes is None:
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
    answers: dict[int, Answered | TowncastError] = {}
    asked: dict[str, dict[int, Question]] = {}
    outcomes: dict[int, dict[str, Outcome]] = {}
    for index, request in enumerate(requests):
        try:
            targets, question = api.targets(request), _question(request)
            kept = _kept(api, town, targets, question)
            if kept is not None:
                answers[index] = _answered(api, request, kept, began)
                continue
        except TowncastError as error:
            answers[index] = error
            continue
        outcomes[index] = {}
        for target in targets:
            asked.setdefault(target, {})[index] = question
    for target, questions in asked.items():
        found = await _outcomes(api, town, target, list(questions.values()))
        for index, outcome in zip(questions, found, strict=True):
            outcomes[index][target] = outcome
    for index, found_outcomes in outcomes.items():
        try:
            answers[index] = _answered(api, requests[index], found_outcomes, began)
        except TowncastError as error:
            answers[index] = error
    return [answers[index] for index in range(len(requests))]


def _question(request: PredictionRequest) -> Question:
    return Question(place=request.place(), horizon=request.forecast_horizon, explain=request.include_explanation)


def _kept(
    api: PredictionApi[Any], town: Town, targets: tuple[str, ...], question: Question
) -> dict[str, Outcome] | None:
    """The forecasts of all targets, if all are kept: without waiting for anything."""
    site = question.place.name
    if site is None or question.explain:
        return None
    outcomes: dict[str, Outcome] = {}
    for target in targets:
        try:
            release = town.release(api.domain, target)
        except NotReadyError:
            return None
        service = release.route(site)
        result = service.kept(question)
        if result is None:
            return None
        release.observe(service, None, False, result)
        outcomes[target] = result
    return outcomes


async def _outcome(api: PredictionApi[Any], town: Town, target: str, question: Question) -> Outcome:
    try:
        return await town.release(api.domain, target).forecast(question)
    except TowncastError as error:
        return error


async def _outcomes(
    api: PredictionApi[Any], town: Town, target: str, questions: Sequence[Question]
) -> Sequence[Outcome]:
    try:
        return await town.release(api.domain, target).forecast_many(questions)
    except TowncastError as error:
        return [error] * len(questions)


def _answered(
    api: PredictionApi[Any], request: PredictionRequest, outcomes: Mapping[str, Outcome], began: float
) -> Answered:
    elapsed_ms = (time.perf_counter() - began) * 1e3
    form = _form(api, request, outcomes)
    results = tuple(result for target in form.targets if isinstance(result := outcomes[target], ForecastResult))
    request_id = request.request_id or new_id("pred")
    body = b"".join(
        (
            b'{"request_id":',
            _JSON.encode(request_id),
            b",",
            form.head,
            b',"inference_time_ms":%.3f,"quality":' % elapsed_ms,
            _quality(form, results),
            b"}",
        )
    )
    return Answered(request_id=request_id, body=body, elapsed_ms=elapsed_ms, results=results)


def _form(api: PredictionApi[Any], request: PredictionRequest, outcomes: Mapping[str, Outcome]) -> _Form:
    """The form of a reply to these forecasts, written before or now.

    Raises:
        TowncastError: There is no reply without a forecast that is not there.
    """
    results = [outcome for outcome in outcomes.values() if isinstance(outcome, ForecastResult)]
    if len(results) < len(outcomes) or request.include_explanation:
        return _written(api.content(request, outcomes))
    forms = results[0].run.written
    key = (api.domain, request.options(), tuple(result.run.name for result in results))
    form: _Form | None = forms.get(key)
    if form is None:
        form = _written(api.content(request, outcomes))
        if len(forms) >= _MOST_FORMS:
            forms.clear()
        forms[key] = form
    return form


def _written(content: Content) -> _Form:
    return _Form(
        head=_JSON.encode(write_head(content))[1:-1],
        targets=tuple(result.card.target for result in content.results),
        place=content.place,
        more_quality=content.more_quality,
    )


def _quality(form: _Form, results: tuple[ForecastResult, ...]) -> bytes:
    """What the reply says of quality; written again where one of the forecasts was judged again."""
    qualities = tuple([result.quality for result in results])
    if qualities != form.qualities:
        said = qualities[0] if len(qualities) == 1 else worst(qualities)
        form.quality = _JSON.encode(write_quality(said, place=form.place, more=form.more_quality))
        form.qualities = qualities
    return form.quality
