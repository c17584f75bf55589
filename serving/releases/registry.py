"""The registry as releases use it: aliases and plans are read, and changed so that the history tells why."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from features.alias_history import change_alias, make_champion
from features.card import CHAMPION
from features.errors import InvalidParameterError, PromotionError, StorageError, UnknownNameError
from features.registry import nearest_names
from serving.releases.plans import (
    CANARY,
    CANARY_TAG,
    CHALLENGER,
    CHALLENGER_TAG,
    DECISION_TAG,
    ROLES,
    SHADOW,
    CanaryLimits,
    CanaryPlan,
    ChallengerPlan,
    CheckLine,
    DecisionLine,
    DecisionOutcome,
    Standing,
    standing_of,
)

_SQLITE = "sqlite:///"
# A tag's value holds 5,000 characters in MLflow's databases, a reason in the history 1,000.
_LONGEST_REASON = 900


class RegistryMissingError(StorageError):
    """There is no registry: nobody has trained a model here, or its file is gone."""


class ReleaseRegistry:
    """Aliases and tags of registered models in MLflow. Every call blocks; the constructor connects nothing.

    Args:
        tracking_uri: Where MLflow is.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._client: Any = None
        self._connecting = threading.Lock()

    def _connect(self) -> Any:
        path = Path(self.tracking_uri.removeprefix(_SQLITE))
        if self.tracking_uri.startswith(_SQLITE) and not path.exists():
            # MLflow would make an empty database, which takes seconds and leaves a file where nobody asked for one.
            raise RegistryMissingError(
                "The registry of models cannot be asked",
                found=f"no file {path}",
                remedy="Bring it back, or see TOWNCAST_TRACKING_URI; what is loaded serves on.",
            )
        with self._connecting:
            if self._client is None:
                from mlflow import MlflowClient

                with _registry_errors(self.tracking_uri):
                    self._client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
            return self._client

    def stamp(self) -> tuple[tuple[int, int, int], ...] | None:
        """What tells whether anything was written since, without asking; None where only asking tells."""
        if not self.tracking_uri.startswith(_SQLITE):
            return None
        path = Path(self.tracking_uri.removeprefix(_SQLITE))
        files = (path, path.with_name(f"{path.name}-wal"))
        stats = [file.stat() for file in files if file.exists()]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats) or None

    def standings(self, names: Iterable[str]) -> dict[str, Standing]:
        """What the registry says of some models; those that are not registered are left out.

        Raises:
            StorageError: The registry is away.
        """
        wanted, client = set(names), self._connect()
        found: dict[str, Standing] = {}
        token: str | None = None
        with _registry_errors(self.tracking_uri):
            while True:
                page = client.search_registered_models(max_results=1000, page_token=token)
                found |= {model.name: standing_of(model) for model in page if model.name in wanted}
                token = page.token
                if not token or len(found) == len(wanted):
                    return found

    def standing(self, name: str) -> Standing:
        """What the registry says of one model.

        Raises:
            UnknownNameError: It is not registered; near names are in the message.
            StorageError: The registry is away.
        """
        client = self._connect()
        with _registry_errors(self.tracking_uri):
            known = {model.name: model for model in client.search_registered_models(max_results=1000)}
        if name not in known:
            names = list(known)
            raise UnknownNameError(kind="registered model", name=name, nearest=nearest_names(name, names), known=names)
        return standing_of(known[name])

    def _check_version(self, standing: Standing, version: int, role: str) -> None:
        """A version that exists and has no other role that answers."""
        client = self._connect()
        with _registry_errors(self.tracking_uri):
            found = client.search_model_versions(f"name = '{standing.name}'", max_results=10_000)
        known = [str(number) for number in sorted((int(one.version) for one in found), reverse=True)]
        if str(version) not in known:
            raise UnknownNameError(kind=f"version of {standing.name}", name=str(version), nearest=[], known=known)
        if CHAMPION not in standing.versions:
            raise PromotionError(
                f"There is no champion of {standing.name} to compare with",
                remedy="Make one first, with `towncast promote`.",
            )
        held = [other for other in ROLES if other != role and standing.versions.get(other) == version]
        if held:
            raise PromotionError(
                f"Version {version} of {standing.name} is {held[0]} already",
                remedy="Choose another version, or end that role first with `towncast release stop`.",
            )

    def set_shadow(self, name: str, version: int, *, reason: str = "") -> None:
        """Have a version forecast in the background what others answer.

        Raises:
            UnknownNameError: There is no such model or version.
            PromotionError: There is no champion, or the version has another role.
            StorageError: The registry is away.
        """
        self._check_version(self.standing(name), version, SHADOW)
        with _registry_errors(self.tracking_uri):
            change_alias(self._connect(), name, SHADOW, version, action="release", reason=reason or "shadow")

    def set_challenger(self, name: str, version: int, *, share_percent: float, reason: str = "") -> ChallengerPlan:
        """Have a version answer for a fixed share of the sites.

        Raises:
            UnknownNameError: There is no such model or version.
            PromotionError: There is no champion, or the version has another role.
            StorageError: The registry is away.
        """
        standing = self.standing(name)
        self._check_version(standing, version, CHALLENGER)
        before = standing.challenger
        same = before is not None and before.version == version
        # A share that is changed keeps its sites: those of the smaller share are among those of the larger.
        plan = ChallengerPlan(
            id=before.id if before is not None and same else _new_id(),
            version=version,
            share_percent=share_percent,
            since_s=time.time(),
        )
        client = self._connect()
        with _registry_errors(self.tracking_uri):
            client.set_registered_model_tag(name, CHALLENGER_TAG, plan.model_dump_json())
            why = f"{share_percent:g} % of the sites" + (f": {reason}" if reason else "")
            if standing.versions.get(CHALLENGER) != version:
                change_alias(client, name, CHALLENGER, version, action="release", reason=why[:_LONGEST_REASON])
        return plan

    def start_canary(
        self,
        name: str,
        version: int,
        *,
        steps_percent: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0),
        minimum_s: float = 1800.0,
        minimum_requests: int = 200,
        limits: CanaryLimits | None = None,
        reason: str = "",
        approved_by: str = "",
    ) -> CanaryPlan:
        """Have a version answer for more and more sites, until it is champion or is rolled back.

        Raises:
            UnknownNameError: There is no such model or version.
            PromotionError: There is no champion, the version has another role, or another canary is under way.
            InvalidParameterError: The steps do not ascend to 100 %, or a minimum is negative.
            StorageError: The registry is away.
        """
        standing = self.standing(name)
        if CANARY in standing.versions:
            raise PromotionError(
                f"Version {standing.versions[CANARY]} of {name} is canary already",
                remedy="Wait until it is champion or rolled back, or end it with `towncast release stop`.",
            )
        self._check_version(standing, version, CANARY)
        now_s = time.time()
        try:
            plan = CanaryPlan(
                id=_new_id(),
                version=version,
                champion=standing.versions[CHAMPION],
                steps_percent=steps_percent,
                step_since_s=now_s,
                since_s=now_s,
                minimum_s=minimum_s,
                minimum_requests=minimum_requests,
                limits=limits or CanaryLimits(),
                reason=reason,
                approved_by=approved_by,
            )
        except ValueError as error:
            raise InvalidParameterError(
                parameter="steps, minutes or requests",
                provided=(steps_percent, minimum_s, minimum_requests),
                allowed="shares above 0 that ascend and end with 100, minimums of 0 or more, a reason of at most 500",
                fact="The plan of the canary cannot be followed",
                remedy="Use for example --steps 5,25,50,100 --minutes 30 --requests 200.",
            ) from error
        client = self._connect()
        with _registry_errors(self.tracking_uri):
            client.set_registered_model_tag(name, CANARY_TAG, plan.model_dump_json())
            steps = ", ".join(f"{step:g}" for step in plan.steps_percent)
            why = f"canary, {steps} %" + (f": {reason}" if reason else "")
            change_alias(client, name, CANARY, version, action="release", reason=why, approved_by=approved_by)
        return plan

    def advance(self, name: str, plan: CanaryPlan, *, reason: str, table: tuple[CheckLine, ...]) -> bool:
        """Begin a canary's next step; after its last one, make it champion as `towncast promote` does.

        Returns:
            Whether that was done: not where the plan has changed since it was read.

        Raises:
            StorageError: The registry is away.
        """
        standing = self.standing(name)
        if standing.canary != plan or standing.versions.get(CHAMPION) != plan.champion:
            return False
        client, last = self._connect(), plan.step == len(plan.steps_percent) - 1
        with _registry_errors(self.tracking_uri):
            if last:
                self._note(client, name, plan, "promoted", reason, table)
                why = f"canary: {reason}" + (f"; {plan.reason}" if plan.reason else "")
                make_champion(client, name, plan.version, reason=why[:_LONGEST_REASON], approved_by=plan.approved_by)
                self._end(client, name, CANARY, action="withdraw", reason="promoted")
            else:
                self._note(client, name, plan, "advanced", reason, table)
                after = plan.model_copy(update={"step": plan.step + 1, "step_since_s": time.time()})
                client.set_registered_model_tag(name, CANARY_TAG, after.model_dump_json())
        return True

    def roll_back(self, name: str, plan: CanaryPlan, *, reason: str, table: tuple[CheckLine, ...]) -> bool:
        """Let a canary answer no more; the history keeps that it was rolled back, and why.

        Returns:
            Whether that was done: not where it is canary no more.

        Raises:
            StorageError: The registry is away.
        """
        standing = self.standing(name)
        if standing.canary is None or standing.canary.id != plan.id:
            return False
        client = self._connect()
        with _registry_errors(self.tracking_uri):
            self._end(client, name, CANARY, action="rollback", reason=reason[:_LONGEST_REASON])
            self._note(client, name, plan, "rolled back", reason, table)
        return True

    def stop(self, name: str, role: str, *, reason: str = "") -> int:
        """End a role; the version that had it.

        Raises:
            UnknownNameError: There is no such role to end.
            PromotionError: No version has it.
            StorageError: The registry is away.
        """
        roles = [CHALLENGER, CANARY, SHADOW]
        if role not in roles:
            raise UnknownNameError(kind="role", name=role, nearest=nearest_names(role, roles), known=roles)
        standing = self.standing(name)
        if role not in standing.versions:
            raise PromotionError(
                f"No version of {name} is {role}", remedy="See `towncast release status` for the roles."
            )
        with _registry_errors(self.tracking_uri):
            self._end(self._connect(), name, role, action="withdraw", reason=(reason or "stopped")[:_LONGEST_REASON])
        return standing.versions[role]

    def _end(self, client: Any, name: str, role: str, *, action: str, reason: str) -> None:
        # The alias first: a plan without one is nobody's.
        change_alias(client, name, role, None, action=action, reason=reason)
        key = {CHALLENGER: CHALLENGER_TAG, CANARY: CANARY_TAG}.get(role)
        if key is not None:
            client.delete_registered_model_tag(name, key)

    def _note(
        self,
        client: Any,
        name: str,
        plan: CanaryPlan,
        outcome: DecisionOutcome,
        reason: str,
        table: tuple[CheckLine, ...],
    ) -> None:
        line = DecisionLine(
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            plan=plan.id,
            version=plan.version,
            outcome=outcome,
            share_percent=plan.share_percent,
            reason=reason[:_LONGEST_REASON],
            table=table,
        )
        key = f"{DECISION_TAG}{int(time.time() * 1000)}.{uuid.uuid4().hex[:8]}"
        client.set_registered_model_tag(name, key, line.model_dump_json())


def _new_id() -> str:
    return uuid.uuid4().hex[:16]


def _away(tracking_uri: str, found: str) -> StorageError:
    # Not the whole address: a password may be in it.
    where = tracking_uri if tracking_uri.startswith(_SQLITE) else tracking_uri.split("@")[-1]
    return StorageError(
        "The registry of models cannot be asked",
        found=f"{where}: {found}",
        remedy="Bring MLflow back, or see TOWNCAST_TRACKING_URI; what is loaded serves on.",
    )


@contextmanager
def _registry_errors(tracking_uri: str) -> Iterator[None]:
    """MLflow's refusals, and those of the database and the network beneath it, as a `StorageError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise _away(tracking_uri, (str(error).splitlines() or [type(error).__name__])[0]) from error
