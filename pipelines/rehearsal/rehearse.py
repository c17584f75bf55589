"""The rehearsal: half a year through the running API, with harm on the way, looks, retrainings, and what came of it."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from features.domains import DOMAINS
from features.errors import InvalidParameterError, TowncastError
from features.store import ReadingStore
from features.vocabulary import Domain
from pipelines.ingest import ingest_parsed
from pipelines.prepare import simulate_readings
from pipelines.promote import promote_version
from pipelines.rehearsal.diary import Diary, Event, Harm, Rehearsed, read_diary
from pipelines.rehearsal.injections import KINDS, Injection, inject
from pipelines.rehearsal.jobs import look, newest_version, retrain_now, wait_for_log
from pipelines.rehearsal.outcome import rehearsed_of
from pipelines.rehearsal.replay import ReplayApi, Story, domain_of, published_story, stored_story
from pipelines.settings import Settings
from pipelines.steps import Steps
from pipelines.train import train_domain
from serving.monitoring.report import Trigger

USUAL_KINDS = ("level_shift", "turned_day", "stuck_sensor", "sundays")
_DAY = pd.Timedelta(days=1)
# Harm is spread over this part of the replay: the weeks before it show how a healthy town looks.
_FIRST_SHARE, _LAST_SHARE = 0.3, 0.8
_LOST_SENSOR_WEEKS = 3
_USUAL_WEEKS, _LEAST_WEEKS, _LEAST_TRAINING_WEEKS = 26, 2, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalPlan:
    """What is rehearsed.

    Attributes:
        domain: What is forecast.
        folder: Where readings, models and the diary of the rehearsal are kept, apart from all others.
        data: Folder or file of a published data set; None for readings that simulators make.
        weeks: Length of the replay, which ends with the last reading; None for half a year, or what the readings leave.
        train_weeks: How many weeks before it the first champion knows at most.
        kinds: What is done to the readings, in order.
        recipe: How models are trained.
        origins_per_day: How often a day readings come in and forecasts are asked for.
        look_days: Days between two looks of the monitoring.
        retrain_weeks: Weeks between two retrainings on schedule.
        cooldown_days: Shortest time between two retrainings: a break is told from a bad week after ten days [d].
        speed: How many times faster than real time at most; None for as fast as it goes.
    """

    domain: str
    folder: Path
    data: Path | None = None
    weeks: int | None = None
    train_weeks: int = 52
    kinds: tuple[str, ...] = USUAL_KINDS
    recipe: str = "quick"
    origins_per_day: int = 2
    look_days: int = 1
    retrain_weeks: int = 6
    cooldown_days: int = 10
    speed: float | None = None

    def words(self) -> str:
        """What a diary must be of to go on with this plan: all but the speed."""
        return str(replace(self, speed=None, folder=Path()))

    def environment(self) -> dict[str, str]:
        """Variables that the API and the jobs see: folders of their own, and a clock that is the replay's."""
        root = self.folder.absolute()
        return {
            "TOWNCAST_DATA_DIR": str(root),
            "TOWNCAST_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
            "TOWNCAST_ONLINE_STORE_URL": "",
            "TOWNCAST_DOMAINS": self.domain,
            # The replay joins on its own clock: by the wall's, every actual would be years late.
            "TOWNCAST_MONITORING": "false",
            "TOWNCAST_KEEP_STEPS": json.dumps(list(range(1, _day_steps(DOMAINS[self.domain]) + 1))),
            "TOWNCAST_PREDICTION_LOG_FLUSH_S": "0.2",
            "TOWNCAST_PREDICTION_LOG_DAYS": "0",
            "TOWNCAST_RETRAIN_RELEASE": "champion",
            "TOWNCAST_RETRAIN_COOLDOWN_DAYS": "0",
            "TOWNCAST_ALIAS_REFRESH_S": "0.5",
            "TOWNCAST_REQUIRE_APPROVAL": "false",
        }


def rehearse(plan: RehearsalPlan, *, console: Console) -> Rehearsed:
    """Run a rehearsal, or go on with it.

    The process's own environment takes the plan's variables, because jobs and API must agree on them.

    Raises:
        TowncastError: With its remedy; the same call goes on where it stopped.
        KeyboardInterrupt: Stopped; likewise.
    """
    domain = domain_of(plan.domain)
    _check(plan)
    os.environ.update(plan.environment())
    settings, steps = Settings(), Steps(console)
    story = _story(plan, domain, steps)
    path = plan.folder / "diary.json"
    diary = _opened(plan, story, path)
    harmed = harmed_story(story, diary.harms)
    began = time.perf_counter() - diary.seconds
    if not diary.trained:
        diary = _first_champion(plan, harmed, diary, settings=settings, console=console)
        diary = replace(diary, seconds=time.perf_counter() - began)
        diary.save(path)
    if not diary.over:
        with ReplayApi(plan.environment(), log=plan.folder / "api.log") as api:
            for after in _replayed(plan, harmed, diary, api, console=console):
                diary = replace(after, seconds=time.perf_counter() - began)
                diary.save(path)
    with steps.step("What came of it: errors by week, and a model that learnt from after the change alone"):
        rehearsed = rehearsed_of(diary, harmed, settings=settings, recipe=plan.recipe)
    rehearsed.save(plan.folder / "rehearsal.json")
    return rehearsed


def _check(plan: RehearsalPlan) -> None:
    for kind in plan.kinds:
        KINDS[kind]
    if plan.origins_per_day < 1 or 24 % plan.origins_per_day:
        raise InvalidParameterError(
            parameter="origins_per_day",
            provided=plan.origins_per_day,
            allowed="a divisor of 24",
            fact="A day cannot be cut like this",
            remedy="Choose another value.",
        )


def _day_steps(domain: Domain) -> int:
    return int(_DAY.total_seconds()) // domain.step_s


def _story(plan: RehearsalPlan, domain: Domain, steps: Steps) -> Story:
    if plan.data is not None:
        with steps.step(f"Readings: {plan.data}"):
            return published_story(domain, plan.data)
    source = Settings(data_dir=plan.folder / "source")
    store = ReadingStore(source.readings_dir, domain)
    if not store.sites():
        simulate_readings(domain, source, steps)
    return stored_story(store)


def _opened(plan: RehearsalPlan, story: Story, path: Path) -> Diary:
    """The diary as it was left, or a new one.

    Raises:
        InvalidParameterError: There is one of another plan.
    """
    found = read_diary(path)
    if found is not None:
        if found.plan != plan.words():
            raise InvalidParameterError(
                parameter="folder",
                provided=str(plan.folder),
                allowed="an empty folder, or one of the same rehearsal",
                fact="Another rehearsal was begun in this folder",
                remedy="Remove it with --anew, or name another folder with --folder.",
            )
        return found
    target = story.readings[story.readings["quantity"] == story.domain.target.name]
    first, end = (target["valid_at"].agg(how).tz_convert(story.timezone) for how in ("min", "max"))
    there = (end - first) // (7 * _DAY) - _LEAST_TRAINING_WEEKS
    weeks = min(_USUAL_WEEKS, there) if plan.weeks is None else plan.weeks
    if not _LEAST_WEEKS <= weeks <= there:
        raise InvalidParameterError(
            parameter="weeks",
            provided=weeks,
            allowed=f"{_LEAST_WEEKS} to {there}: {_LEAST_TRAINING_WEEKS} weeks before it are trained on",
            fact="The readings are too short for this replay",
            remedy="Choose fewer weeks with --weeks, or name longer readings with --data.",
        )
    end = end.floor("D")
    begin = (end - weeks * 7 * _DAY + pd.Timedelta(hours=2)).floor("D")
    return Diary(
        plan=plan.words(),
        begin_s=begin.timestamp(),
        end_s=end.timestamp(),
        harms=planned_harms(plan.kinds, [site.name for site in story.sites], begin=begin, weeks=weeks),
        now_s=begin.timestamp(),
    )


def planned_harms(kinds: Sequence[str], sites: Sequence[str], *, begin: pd.Timestamp, weeks: int) -> tuple[Harm, ...]:
    """Injections spread over a replay, each at sites of its own where there are enough; some sites stay healthy.

    A lost sensor is mended after three weeks. Where all share the sites, each ends when the next begins.
    """
    share = len(sites) // (len(kinds) + 1) if kinds else 0
    gap = (_LAST_SHARE - _FIRST_SHARE) / max(len(kinds) - 1, 1)
    days = [int(7 * weeks * (_FIRST_SHARE + number * gap)) for number in range(len(kinds))]
    harms = []
    for number, kind in enumerate(kinds):
        first = begin + days[number] * _DAY
        ends = [first + 7 * _LOST_SENSOR_WEEKS * _DAY] if KINDS[kind].group == "lost sensor" else []
        if not share and number + 1 < len(kinds):
            ends.append(begin + days[number + 1] * _DAY)
        harms.append(
            Harm(
                kind=kind,
                sites=tuple(sites[number * share : (number + 1) * share] if share else sites),
                begin_s=first.timestamp(),
                end_s=min(ends).timestamp() if ends else None,
                size=KINDS[kind].usual_size,
            )
        )
    return tuple(harms)


def harmed_story(story: Story, harms: Sequence[Harm]) -> Story:
    """The readings with every injection in them."""
    readings = story.readings
    for harm in harms:
        injection = Injection(
            kind=harm.kind,
            sites=harm.sites,
            quantity=story.domain.target.name,
            begin=pd.Timestamp(harm.begin_s, unit="s", tz="UTC"),
            end=None if harm.end_s is None else pd.Timestamp(harm.end_s, unit="s", tz="UTC"),
            size=harm.size,
            timezone=story.timezone,
        )
        readings = inject(readings, injection)
    return replace(story, readings=readings)


def _first_champion(plan: RehearsalPlan, story: Story, diary: Diary, *, settings: Settings, console: Console) -> Diary:
    begin = pd.Timestamp(diary.begin_s, unit="s", tz="UTC")
    known = story.between(begin - plan.train_weeks * 7 * _DAY, begin)
    ingest_parsed(story.as_parsed(known), story.domain, root=settings.readings_dir)
    trained = train_domain(plan.domain, settings=settings, console=console, recipe_name=plan.recipe)
    for model in trained.models:
        if not model.champion:
            console.print(
                f"[yellow]The gate refuses the first model, which serves all the same:[/] {model.verdict.reason}"
            )
            promote_version(
                plan.domain,
                settings=settings,
                console=console,
                target=model.target.name,
                version=model.registered.version,
                force=True,
                reason="the first champion of a rehearsal",
            )
    version = newest_version(story.domain, settings)
    event = Event(at_s=diary.begin_s, kind="trained", words="the first champion", model_version=version)
    return diary.with_event(event)


def _replayed(plan: RehearsalPlan, story: Story, diary: Diary, api: ReplayApi, *, console: Console) -> Iterator[Diary]:
    """The diary after each day."""
    day = pd.Timestamp(diary.now_s, unit="s", tz="UTC").tz_convert(story.timezone)
    total = round((diary.end_s - diary.begin_s) / 86400)
    done = round((diary.now_s - diary.begin_s) / 86400)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # The jobs show progress of their own, and a terminal has room for one live display.
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("replaying", total=total, completed=done)
        while not diary.over:
            began = time.monotonic()
            tomorrow = (day + _DAY + pd.Timedelta(hours=2)).floor("D")
            progress.update(task, description=f"replaying {day:%Y-%m-%d}")
            _live(plan, story, api, day, tomorrow)
            diary = _looked(plan, story, replace(diary, now_s=tomorrow.timestamp()), api, console=progress.console)
            day = tomorrow
            progress.advance(task)
            yield diary
            if plan.speed is not None:
                time.sleep(max(0.0, 86400 / plan.speed - (time.monotonic() - began)))


def _live(plan: RehearsalPlan, story: Story, api: ReplayApi, day: pd.Timestamp, tomorrow: pd.Timestamp) -> None:
    """A day: readings come in, forecasts are asked for."""
    sites = [site.name for site in story.sites]
    moments = pd.date_range(day, tomorrow, freq=pd.Timedelta(hours=24 // plan.origins_per_day))
    for before, moment in itertools.pairwise([*moments[moments < tomorrow], tomorrow]):
        readings = story.between(before, moment)
        if len(readings):
            api.send(story.domain.name, readings)
            api.ask(story.domain, sites)


def _looked(plan: RehearsalPlan, story: Story, diary: Diary, api: ReplayApi, *, console: Console) -> Diary:
    """The diary after what is due at the end of a day: a look, a retraining."""
    diary = _harm_told(diary, console)
    days = round((diary.now_s - diary.begin_s) / 86400)
    if days % plan.look_days:
        return diary
    wait_for_log(Settings())
    seen = look(story.domain.name, now_s=diary.now_s)
    for event in seen.events(diary):
        diary = _told(diary, event, story, console)
    diary = replace(diary, alarmed=seen.harmed)
    last_s = diary.begin_s if diary.retrained_s is None else diary.retrained_s
    since_days = (diary.now_s - last_s) / 86400
    scheduled = since_days >= 7 * plan.retrain_weeks
    if not scheduled and (seen.trigger is None or since_days < plan.cooldown_days):
        return diary
    return _retrained(plan, story, diary, api, None if scheduled else seen.trigger, console=console)


def _retrained(
    plan: RehearsalPlan, story: Story, diary: Diary, api: ReplayApi, trigger: Trigger | None, *, console: Console
) -> Diary:
    try:
        event = retrain_now(story.domain, trigger, now_s=diary.now_s, weeks=plan.retrain_weeks, recipe=plan.recipe)
    except TowncastError as error:
        event = Event(at_s=diary.now_s, kind="failed", words=str(error))
    if event.kind == "retrained":
        api.wait_for_model(story.domain, event.model_version)
    return replace(_told(diary, event, story, console), retrained_s=diary.now_s)


def _harm_told(diary: Diary, console: Console) -> Diary:
    """Events of the injections that have begun or ended by now."""
    told = {(event.kind, event.cause, event.sites) for event in diary.events}
    for harm in diary.harms:
        kind = KINDS[harm.kind]
        begun = Event(at_s=harm.begin_s, kind="injected", sites=harm.sites, words=kind.words, cause=harm.kind)
        ended = Event(at_s=harm.end_s or 0.0, kind="ended", sites=harm.sites, words="as before", cause=harm.kind)
        for event, at_s in ((begun, harm.begin_s), (ended, harm.end_s)):
            if at_s is not None and at_s < diary.now_s and (event.kind, event.cause, event.sites) not in told:
                diary = diary.with_event(event)
                console.print(event_line(event, "UTC"))
    return diary


def _told(diary: Diary, event: Event, story: Story, console: Console) -> Diary:
    console.print(event_line(event, story.timezone))
    return diary.with_event(event)


_COLOURS = {"injected": "magenta", "alarm": "red", "retrained": "green", "refused": "yellow", "failed": "red"}


def event_line(event: Event, timezone: str) -> str:
    """An event as a line for a console."""
    from rich.markup import escape

    day = pd.Timestamp(event.at_s, unit="s", tz="UTC").tz_convert(timezone)
    colour = _COLOURS.get(event.kind, "dim")
    where = f" {', '.join(event.sites)}:" if event.sites else ""
    cause = f" ({event.cause})" if event.cause else ""
    return f"{day:%Y-%m-%d} [{colour}]{event.kind}[/]{escape(where)} {escape(event.words)}{escape(cause)}"
