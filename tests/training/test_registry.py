"""Versions, verdicts and the history of aliases in a real MLflow store."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from features.alias_history import AliasChange, champions_in_line
from features.card import CHAMPION, GRAPH_FILE, Card, load_card, registered_name
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, PromotionError, UnknownNameError
from features.vocabulary import Domain, Site
from features.windows import make_windows, panel_from_blocks
from training.export import export_graph
from training.gate import Check, Verdict
from training.models.seasonal import SeasonalForecaster
from training.registry import CANDIDATE, ModelRegistry, Registered
from training.tracking import Tracking

TRAFFIC = DOMAINS["traffic"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    # A folder with a space, as homes have.
    return ModelRegistry(Tracking(f"sqlite:///{tmp_path_factory.mktemp('a store') / 'mlflow.db'}"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """The seasonal profile as an artifact."""
    folder = tmp_path_factory.mktemp("artifact")
    forecaster = SeasonalForecaster(TRAFFIC)
    blocks = np.random.default_rng(0).uniform(0, 9, (2, TRAFFIC.history_steps, len(TRAFFIC.inputs)))
    sites = [Site(name=name, latitude=45.0, longitude=-93.0, attributes={"lanes": 2.0}) for name in ("A", "B")]
    panel = panel_from_blocks(TRAFFIC, sites, blocks.astype(np.float32), origin_s=1_700_000_000 // 3600 * 3600)
    windows = make_windows(panel, [0, 1], [panel.first_origin] * 2)
    card = Card(
        model="traffic-seasonal",
        domain=TRAFFIC.name,
        family=forecaster.name,
        target=TRAFFIC.target.name,
        unit=TRAFFIC.target.unit,
        step_s=TRAFFIC.step_s,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=forecaster.levels,
        sites=tuple(sites),
        input_range={},
        parity=export_graph(forecaster, windows, folder),
    )
    return folder, card


@pytest.fixture
def register(
    registry: ModelRegistry, artifact: tuple[Path, Card], request: pytest.FixtureRequest
) -> Callable[[], Registered]:
    """Registers one more version of a model that this test has for itself."""
    domain: Domain = dataclasses.replace(TRAFFIC, name=request.node.name.replace("[", "-").replace("]", ""))

    def make() -> Registered:
        with registry.tracking.run(domain, name="seasonal", tags={}) as run_id:
            return registry.register(run_id, *artifact, domain)

    return make


def lines(registry: ModelRegistry, name: str) -> list[tuple[str, str, int | None, int | None, bool]]:
    return [
        (change.action, change.alias, change.from_version, change.to_version, change.took)
        for change in registry.history(name)
    ]


def present(registry: ModelRegistry, name: str) -> int | None:
    found = registry.champion(name)
    return None if found is None else found.version


def verdict(registered: Registered, *, passed: bool = True) -> Verdict:
    checks = (Check(name="worst site", found="R1 | R2", allowed="5%", passed=passed, figures={"R1": 0.5}),)
    return Verdict(model=registered.name, candidate=registered.version, champion=None, windows=9, checks=checks)


def test_a_registered_model_has_graph_card_and_signature(
    registry: ModelRegistry, register: Callable[[], Registered], artifact: tuple[Path, Card], tmp_path: Path
) -> None:
    versions = [register(), register()]
    assert [made.version for made in versions] == [1, 2]
    assert registry.versions(versions[0].name) == versions
    model = registry.tracking.artifact_folder(versions[1].run_id) / "model"
    assert load_card(model) == artifact[1]
    onnx.checker.check_model(onnx.load(model / GRAPH_FILE))
    described = (model / "MLmodel").read_text(encoding="utf-8")
    assert "history" in described
    assert "quantiles" in described
    fetched = registry.fetch(versions[0], tmp_path)
    assert tmp_path in fetched.parents
    assert load_card(fetched) == artifact[1]
    assert (fetched / GRAPH_FILE).is_file()


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_model_without_parity_is_not_registered(
    registry: ModelRegistry, artifact: tuple[Path, Card], difference: float
) -> None:
    folder, card = artifact
    parity = dataclasses.replace(card.parity, largest_relative=difference)
    with registry.tracking.run(TRAFFIC, name="apart", tags={}) as run_id:
        with pytest.raises(ArtifactError, match="without parity"):
            registry.register(run_id, folder, dataclasses.replace(card, parity=parity), TRAFFIC)
    assert not (registry.tracking.artifact_folder(run_id) / "model").exists()
    assert registry.versions(registered_name(TRAFFIC.name)) == []


def test_a_promotion_moves_the_alias_and_says_who_when_and_why(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    first, second = register(), register()
    assert registry.champion(first.name) is None
    registry.promote(first, reason="the first")
    registry.promote(second, reason="better", verdict_run_id=second.run_id, approved_by="Asha")
    client = registry.tracking.connect()
    found = client.get_model_version_by_alias(first.name, CHAMPION)
    assert (int(found.version), found.run_id) == (2, second.run_id)
    assert registry.champion(first.name) == second
    assert client.get_model_version(first.name, "1").aliases == []
    old, new = registry.history(first.name)
    assert (old.number, old.action, old.from_version, old.to_version, old.reason) == (
        1,
        "promote",
        None,
        1,
        "the first",
    )
    assert (new.number, new.from_version, new.to_version, new.approved_by) == (2, 1, 2, "Asha")
    assert new.verdict_run_id == second.run_id
    assert new.by
    assert old.at < new.at
    assert new.at.endswith("+00:00")


def test_a_champion_is_not_promoted_again(registry: ModelRegistry, register: Callable[[], Registered]) -> None:
    only = register()
    registry.promote(only, reason="the first")
    with pytest.raises(PromotionError, match="champion already"):
        registry.promote(only, reason="again")
    assert len(registry.history(only.name)) == 1


def test_two_rollbacks_go_two_champions_back_and_a_third_has_nowhere_to_go(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    versions = [register() for _ in range(4)]
    name = versions[0].name
    for made in versions[:3]:
        registry.promote(made, reason="better")
    assert registry.previous_champion(name).version == 2
    assert registry.rollback(name, reason="too high").to_version == 2
    assert registry.rollback(name, reason="still too high").to_version == 1
    assert present(registry, name) == 1
    with pytest.raises(PromotionError, match="no earlier champion") as caught:
        registry.rollback(name, reason="?")
    assert "version 1 is the first" in str(caught.value)
    assert "--version" in caught.value.remedy
    # What comes after stands on the one that was gone back to.
    registry.promote(versions[3], reason="better")
    assert registry.rollback(name, reason="no").to_version == 1
    assert [line[:1] + line[2:] for line in lines(registry, name)] == [
        ("promote", None, 1, True),
        ("promote", 1, 2, True),
        ("promote", 2, 3, True),
        ("rollback", 3, 2, True),
        ("rollback", 2, 1, True),
        ("promote", 1, 4, True),
        ("rollback", 4, 1, True),
    ]


def test_without_any_champion_there_is_nothing_to_roll_back_to(registry: ModelRegistry) -> None:
    with pytest.raises(PromotionError, match="no champion at all"):
        registry.rollback("towncast-nowhere", reason="?")
    assert registry.history("towncast-nowhere") == ()


def test_the_history_is_only_added_to(registry: ModelRegistry, register: Callable[[], Registered]) -> None:
    first, second = register(), register()
    client = registry.tracking.connect()
    kept: dict[str, str] = {}
    for step in (
        lambda: registry.promote(first, reason="the first"),
        lambda: registry.nominate(second, reason="all checks hold"),
        lambda: registry.promote(second, reason="better"),
        lambda: registry.rollback(first.name, reason="worse"),
        lambda: registry.promote(second, reason="better after all"),
    ):
        step()
        tags = dict(client.get_registered_model(first.name).tags)
        assert kept.items() < tags.items()
        kept = tags
    assert [change.number for change in registry.history(first.name)] == list(range(1, 7))


def test_two_jobs_that_take_the_same_number_do_not_write_over_each_other(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    first, second = register(), register()
    registry.promote(first, reason="one job")
    (change,) = registry.history(first.name)
    other = dataclasses.replace(change, at="2999-01-01T00:00:00+00:00", from_version=1, to_version=2, reason="another")
    client = registry.tracking.connect()
    client.set_registered_model_tag(first.name, *other.as_tag())
    client.set_registered_model_alias(first.name, CHAMPION, "2")
    assert [change.reason for change in registry.history(first.name)] == ["one job", "another"]
    assert registry.rollback(second.name, reason="back").to_version == 1


def test_a_crash_between_record_and_alias_leaves_a_line_that_did_not_take(
    registry: ModelRegistry, register: Callable[[], Registered], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [register() for _ in range(3)]
    name = versions[0].name
    registry.promote(versions[0], reason="the first")
    registry.promote(versions[1], reason="better")
    with monkeypatch.context() as patch:
        client_type = type(registry.tracking.connect())
        patch.setattr(client_type, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.promote(versions[2], reason="killed")
    assert present(registry, name) == 2
    assert lines(registry, name)[-1] == ("promote", CHAMPION, 2, 3, False)
    # It is no champion to go back to, neither before nor after it really became one.
    assert registry.previous_champion(name).version == 1
    registry.promote(versions[2], reason="again")
    assert [line[-1] for line in lines(registry, name)] == [True, True, False, True]
    assert registry.rollback(name, reason="back").to_version == 2
    assert registry.rollback(name, reason="back").to_version == 1


def test_a_champion_that_was_set_by_hand_counts(registry: ModelRegistry, register: Callable[[], Registered]) -> None:
    versions = [register() for _ in range(3)]
    name = versions[0].name
    registry.promote(versions[0], reason="the first")
    client = registry.tracking.connect()
    client.set_registered_model_alias(name, CHAMPION, "2")
    assert registry.previous_champion(name).version == 1
    registry.promote(versions[2], reason="better")
    assert all(change.took for change in registry.history(name))
    assert registry.rollback(name, reason="back").to_version == 2
    assert registry.rollback(name, reason="back").to_version == 1


def test_a_champion_that_was_deleted_is_no_place_to_go_back_to(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    first, second = register(), register()
    registry.promote(first, reason="the first")
    registry.promote(second, reason="better")
    registry.tracking.connect().delete_model_version(first.name, "1")
    with pytest.raises(UnknownNameError, match="'1'"):
        registry.rollback(first.name, reason="back")
    assert present(registry, first.name) == 2


def test_an_unknown_version_is_answered_with_the_known_ones(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    name = register().name
    register()
    with pytest.raises(UnknownNameError) as caught:
        registry.version(name, 9)
    assert str(caught.value) == f"There is no version of {name} of this name (found: '9'). Known are: 2, 1."


def test_a_candidate_waits_and_is_no_candidate_once_it_is_champion(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    first, second = register(), register()
    client = registry.tracking.connect()

    def waiting() -> list[int]:
        return [
            made.version
            for made in registry.versions(first.name)
            if "awaiting_approval" in client.get_model_version(first.name, str(made.version)).tags
        ]

    registry.nominate(first, reason="all checks hold")
    registry.nominate(first, reason="asked again")
    assert registry.holder(first.name, CANDIDATE) == first
    assert waiting() == [1]
    registry.nominate(second, reason="newer")
    assert waiting() == [2]
    registry.promote(second, reason="better", approved_by="Asha")
    assert registry.holder(first.name, CANDIDATE) is None
    assert waiting() == []
    assert lines(registry, first.name) == [
        ("nominate", CANDIDATE, None, 1, True),
        ("nominate", CANDIDATE, 1, 2, True),
        ("promote", CHAMPION, None, 2, True),
        ("withdraw", CANDIDATE, 2, None, True),
    ]


def test_a_verdict_is_kept_as_data_as_a_table_and_as_tags(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    made = register()
    assert registry.verdict_of(made) is None
    registry.keep_verdict(verdict(made, passed=False), made, run_id=made.run_id)
    assert registry.verdict_of(made) == (verdict(made, passed=False), made.run_id)
    folder = registry.tracking.artifact_folder(made.run_id)
    assert "| worst site | R1 \\| R2 | 5% | **no** |" in (folder / "verdict.md").read_text(encoding="utf-8")
    table = json.loads((folder / "verdict_table.json").read_text(encoding="utf-8"))
    assert table == {
        "columns": ["check", "found", "allowed", "passed"],
        "data": [["worst site", "R1 | R2", "5%", False]],
    }
    client = registry.tracking.connect()
    tags = client.get_run(made.run_id).data.tags
    assert (tags["gate"], tags["gate_champion"]) == ("failed", "none")
    assert client.get_model_version(made.name, "1").tags["gate"] == "failed"
    # A later verdict in a run of its own is the one that counts; the earlier one stays.
    with registry.tracking.run(TRAFFIC, name="gate", tags={}) as run_id:
        registry.keep_verdict(verdict(made), made, run_id=run_id)
    assert registry.verdict_of(made) == (verdict(made), run_id)
    assert (folder / "verdict.json").is_file()
    (registry.tracking.artifact_folder(run_id) / "verdict.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be read"):
        registry.verdict_of(made)


def test_an_artifact_that_is_gone_cannot_be_fetched(
    registry: ModelRegistry, register: Callable[[], Registered], tmp_path: Path
) -> None:
    made = register()
    shutil.rmtree(registry.tracking.artifact_folder(made.run_id))
    with pytest.raises(ArtifactError, match="Version 1 of"):
        registry.fetch(made, tmp_path)


def test_a_reason_that_the_history_cannot_hold_changes_nothing(
    registry: ModelRegistry, register: Callable[[], Registered]
) -> None:
    made = register()
    with pytest.raises(InvalidParameterError, match="too long"):
        registry.promote(made, reason="because " * 200)
    assert registry.champion(made.name) is None
    assert registry.history(made.name) == ()


def test_the_line_of_champions_of_a_version_that_came_back() -> None:
    def change(number: int, action: str, before: int | None, after: int) -> AliasChange:
        return AliasChange(
            number=number,
            at="",
            alias=CHAMPION,
            action=action,
            by="",
            from_version=before,
            to_version=after,
            reason="",
        )

    there_and_back = (change(1, "promote", None, 1), change(2, "promote", 1, 2), change(3, "promote", 2, 1))
    assert champions_in_line(there_and_back, 1) == [1, 2, 1]
    assert champions_in_line((*there_and_back, change(4, "rollback", 1, 2)), 2) == [1, 2]
    assert champions_in_line((), None) == []
    assert champions_in_line((), 7) == [7]
