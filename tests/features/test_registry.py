"""Registries and their answers to a wrong name."""

import pytest

from features.errors import DuplicateNameError, UnknownNameError
from features.registry import Registry, nearest_names


def test_entries_come_back_in_order() -> None:
    registry: Registry[int] = Registry("number")
    assert registry.register("one", 1) == 1
    registry.register("two", 2)
    assert registry["two"] == 2
    assert (list(registry), list(registry.values()), len(registry)) == (["one", "two"], [1, 2], 2)
    assert "one" in registry
    assert "three" not in registry


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    with pytest.raises(DuplicateNameError, match="'one'"):
        registry.register("one", 2)
    assert registry["one"] == 1


def test_an_unknown_name_answers_with_the_nearest() -> None:
    registry: Registry[int] = Registry("domain")
    registry.register("traffic", 1)
    registry.register("pollution", 2)
    with pytest.raises(UnknownNameError, match="Did you mean: traffic") as raised:
        registry["trafic"]
    assert raised.value.nearest == ["traffic"]


def test_a_name_like_no_other_answers_with_what_is_known() -> None:
    registry: Registry[int] = Registry("domain")
    with pytest.raises(UnknownNameError, match="none yet"):
        registry["x"]
    registry.register("traffic", 1)
    with pytest.raises(UnknownNameError, match="Known are: traffic"):
        registry["zzz"]


def test_case_does_not_matter_for_nearness() -> None:
    assert nearest_names("PM2_5", ["pm2_5", "pm10"])[0] == "pm2_5"
    assert nearest_names("x", []) == []
