"""When jobs are due, and when a trigger may retrain."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from features.errors import InvalidParameterError
from pipelines.retraining_state import RetrainingStore
from pipelines.schedule_settings import ScheduleSettings
from serving.monitoring.report import Trigger

_DAY_S = 86400.0


def next_time(cron: str, after_s: float, *, timezone: str) -> float:
    """When a cron expression is next due [s since 1970].

    Args:
        cron: Five fields; of a clock that is put forward or back, as Debian's cron understands them.
        after_s: Later than this [s since 1970].
        timezone: IANA name of the clock.

    Raises:
        InvalidParameterError: The expression or the time zone cannot be read.
    """
    from cronsim import CronSim, CronSimError

    try:
        zone = ZoneInfo(timezone)
        return float(next(CronSim(cron, datetime.fromtimestamp(after_s, tz=zone))).timestamp())
    except (CronSimError, StopIteration, ValueError, KeyError) as error:
        raise InvalidParameterError(
            parameter="cron",
            provided=f"{cron} ({timezone})",
            allowed="five fields, such as `0 3 * * 1`, and an IANA time zone",
            fact="The schedule cannot be read",
            remedy="See TOWNCAST_MONITOR_CRON, TOWNCAST_RETRAIN_CRON, TOWNCAST_RETRAIN_CRON_OF and "
            "TOWNCAST_SCHEDULE_TIMEZONE.",
        ) from error


def in_cooldown(domain: str, now_s: float, *, settings: ScheduleSettings) -> float:
    """For how long no trigger of performance or data retrains a domain [s], 0 for it may.

    Retrainings that were given up do not count, those that ended with a refusal do: the same readings would be refused
    again.
    """
    began = [
        state.began_s
        for state in RetrainingStore(settings.retraining_dir).states(domain)
        if not state.given_up and state.began_s <= now_s
    ]
    if not began:
        return 0.0
    return max(0.0, max(began) + settings.retrain_cooldown_days * _DAY_S - now_s)


def joined(triggers: list[Trigger]) -> Trigger:
    """Several triggers of a domain's targets as one; what is known of errors comes first."""
    first = next((one for one in triggers if one.kind == "performance"), triggers[0])
    sites = tuple(dict.fromkeys(site for one in triggers if one.kind == first.kind for site in one.sites))
    reasons = "; ".join(dict.fromkeys(one.reason for one in [first, *triggers]))
    return Trigger(kind=first.kind, sites=sites, reason=reasons)
