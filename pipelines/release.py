"""The release job: give versions a role beside the champion, if the gate and the history let them."""

from __future__ import annotations

from dataclasses import dataclass

from features.card import CHAMPION
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, PromotionError
from features.registry import Registry
from features.vocabulary import Domain, Quantity
from pipelines.settings import Settings
from serving.releases.board import Board, RoleEntry, sum_roles
from serving.releases.plans import CanaryPlan, ChallengerPlan, Standing
from serving.releases.registry import RegistryMissingError, ReleaseRegistry
from training.registry import ModelRegistry, Registered, model_name
from training.tracking import Tracking

# A worker that has written nothing for so long has ended [s].
_ALIVE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a target's release stands.

    Attributes:
        domain: Of the target.
        target: Its name.
        standing: What the registry says.
        roles: Figures by role, summed over the workers that share the data folder; empty where none runs.
    """

    domain: Domain
    target: Quantity
    standing: Standing
    roles: dict[str, RoleEntry]


def release_status(domain: str | None, *, settings: Settings, target: str | None = None) -> list[Status]:
    """How the releases of a domain, or of all, stand; of what is registered.

    Raises:
        UnknownNameError: There is no such domain or target.
        StorageError: The registry is away.
    """
    wanted = [DOMAINS[domain]] if domain else list(DOMAINS.values())
    names = {model_name(one, quantity): (one, quantity) for one in wanted for quantity in _targets(one, target)}
    try:
        standings = ReleaseRegistry(settings.tracking_uri).standings(names)
    except RegistryMissingError:
        return []  # nobody has trained a model yet
    return [
        Status(
            domain=one,
            target=quantity,
            standing=standings[name],
            roles=sum_roles(Board(settings.data_dir / "releases" / name).entries(newest_s=_ALIVE_S)),
        )
        for name, (one, quantity) in names.items()
        if name in standings
    ]


def release_shadow(domain: str, version: int, *, settings: Settings, target: str | None = None) -> str:
    """Have a version forecast in the background what is answered; the name of its model.

    Raises:
        UnknownNameError: There is no such domain, target, model or version.
        PromotionError: There is no champion, or the version has another role.
    """
    name = _name(domain, target)
    ReleaseRegistry(settings.tracking_uri).set_shadow(name, version)
    return name


def release_challenger(
    domain: str, version: int, *, share_percent: float, settings: Settings, target: str | None = None
) -> tuple[str, ChallengerPlan]:
    """Have a version answer for a share of the sites; the name of its model, and the plan.

    Raises:
        UnknownNameError: There is no such domain, target, model or version.
        PromotionError: There is no champion, or the version has another role.
    """
    name = _name(domain, target)
    return name, ReleaseRegistry(settings.tracking_uri).set_challenger(name, version, share_percent=share_percent)


def release_canary(
    domain: str,
    version: int,
    *,
    steps: str,
    minutes: float,
    requests: int,
    settings: Settings,
    target: str | None = None,
    approved_by: str = "",
    force: bool = False,
    reason: str = "",
) -> tuple[str, CanaryPlan]:
    """Have a version answer for more and more sites, until it is champion; the name of its model, and the plan.

    It becomes champion without anybody being asked again, so what `towncast promote` would ask is asked now: that it
    passed the gate, and a person's approval where that is needed.

    Args:
        domain: Name of the domain.
        version: In the registry.
        steps: Shares of the sites [%], with commas between.
        minutes: Shortest duration of a step [min].
        requests: Fewest answers in a step.
        settings: Addresses.
        target: Whose model, by default the domain's first target's.
        approved_by: Person who approves it, empty for nobody.
        force: Whether it may answer although it did not pass the gate.
        reason: Why; must be given with `force`.

    Raises:
        UnknownNameError: There is no such domain, target, model or version.
        InvalidParameterError: The steps or minimums cannot be followed, or `force` has no reason.
        PromotionError: The gate, the history or a missing approval stands against it, or there is no champion, or the
            version has another role, or another canary is under way.
    """
    name, shares = _name(domain, target), _shares(steps)
    releases = ReleaseRegistry(settings.tracking_uri)
    standing = releases.standing(name)
    if CHAMPION in standing.versions:
        registry = ModelRegistry(Tracking(settings.tracking_uri))
        registered = registry.version(name, version)
        _ask_gate(registry, registered, force=force, reason=reason)
        _ask_person(registry, registered, settings, approved_by=approved_by)
    plan = releases.start_canary(
        name,
        version,
        steps_percent=shares,
        minimum_s=minutes * 60,
        minimum_requests=requests,
        reason=f"forced: {reason}" if force else reason,
        approved_by=approved_by,
    )
    return name, plan


def release_stop(domain: str, role: str, *, settings: Settings, target: str | None = None) -> tuple[str, int]:
    """End a role; the name of the model, and the version that had it.

    Raises:
        UnknownNameError: There is no such domain, target, model or role.
        PromotionError: No version has the role.
    """
    name = _name(domain, target)
    return name, ReleaseRegistry(settings.tracking_uri).stop(name, role)


def _ask_gate(registry: ModelRegistry, registered: Registered, *, force: bool, reason: str) -> None:
    if force:
        if not reason:
            raise InvalidParameterError(
                parameter="reason",
                provided=reason,
                allowed="any text",
                fact="A forced release needs a reason, which the history keeps",
                remedy='Say why: --force --reason "...".',
            )
        return
    try:
        found = registry.verdict_of(registered)
    except ArtifactError:
        found = None
    if found is None or not found[0].passed:
        raise PromotionError(
            f"Version {registered.version} of {registered.name} did not pass the gate",
            found="it was never judged" if found is None else found[0].reason,
            remedy='Run it as a shadow, or overrule the gate with --force --reason "...".',
        )


def _ask_person(registry: ModelRegistry, registered: Registered, settings: Settings, *, approved_by: str) -> None:
    if approved_by:
        return
    rolled_back = registry.was_rolled_back(registered)
    if settings.require_approval or rolled_back:
        raise PromotionError(
            f"A person must approve version {registered.version} of {registered.name}",
            found="it was rolled back before" if rolled_back else "TOWNCAST_REQUIRE_APPROVAL is on",
            remedy="Name the person with --approved-by.",
        )


def _shares(steps: str) -> tuple[float, ...]:
    try:
        return tuple(float(step) for step in steps.split(","))
    except ValueError as error:
        raise InvalidParameterError(
            parameter="steps",
            provided=steps,
            allowed="shares in percent with commas between",
            fact="The steps cannot be read",
            remedy="Write them like 5,25,50,100.",
        ) from error


def _targets(domain: Domain, name: str | None) -> tuple[Quantity, ...]:
    """A domain's target by name, all for None."""
    if name is None:
        return domain.targets
    targets: Registry[Quantity] = Registry(f"target of {domain.name}")
    for quantity in domain.targets:
        targets.register(quantity.name, quantity)
    return (targets[name],)


def _name(domain: str, target: str | None) -> str:
    found = DOMAINS[domain]
    return model_name(found, _targets(found, target)[0])
