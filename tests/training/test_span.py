import numpy as np
import pytest

from features.errors import NotEnoughDataError
from training.span import splits_between, without_past
from training.window_set import Splits


def test_windows_of_a_span_have_no_target_outside_it_and_share_none(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    begin, end = panel.first_origin + 500, panel.first_origin + 900
    splits = splits_between(panel, begin=begin, end=end)
    hours = {
        name: {
            int(hour)
            for origin in np.unique(part.origin_B)
            for hour in range(origin + 1, origin + 1 + panel.domain.horizon_steps)
        }
        for name, part in (("train", splits.train), ("validation", splits.validation))
    }
    assert min(hours["train"] | hours["validation"]) >= begin
    assert max(hours["train"] | hours["validation"]) < end
    assert not hours["train"] & hours["validation"]
    assert len(hours["train"]) > 4 * len(hours["validation"])


def test_a_span_that_is_too_short_is_refused(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    with pytest.raises(NotEnoughDataError, match="too short"):
        splits_between(panel, begin=panel.first_origin + 500, end=panel.first_origin + 512)


def test_a_past_can_be_taken_from_some_sites(town_splits: Splits) -> None:
    panel = town_splits.train.panel
    after = without_past(panel, before=2000, sites=["B"])
    gone = np.isnan(after.value_STK) & ~np.isnan(panel.value_STK)
    assert gone[1, :2000, 0].any()
    assert not gone[0].any()
    assert not gone[1, 2000:].any()
    assert not gone[1, :, 1:].any()
    assert np.isnan(without_past(panel, before=2000).value_STK[:, :2000, 0]).all()
