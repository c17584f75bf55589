"""Simulated rows are recommended only where they clearly help on the validation weeks."""

import io
from pathlib import Path

from rich.console import Console

from features.domains import DOMAINS
from pipelines.sim_to_real import ShareJudged, SimToReal, plot_sim_to_real, render_sim_to_real
from training.plots import save_figure
from training.recipes import RECIPES


def judged(*gains: tuple[float, float, float]) -> SimToReal:
    """A gain on the validation weeks and its interval, for shares from 0 on; the test says the opposite of each."""
    entries = [
        ShareJudged(
            asked=0.25 * index,
            share=0.2 * index,
            windows=1000,
            mae=10.0,
            rmse=15.0,
            gain=-gain,
            gain_90=(-high, -low),
            validation_gain=gain,
            validation_gain_90=(low, high),
        )
        for index, (low, gain, high) in enumerate(gains)
    ]
    return SimToReal(domain=DOMAINS["water"], recipe=RECIPES["water"]["quick"], judged=tuple(entries))


def test_the_validation_weeks_decide_not_the_test() -> None:
    assert judged((0, 0, 0), (-0.01, 0.02, 0.05), (-0.2, -0.1, -0.05)).recommended == 0.0
    assert judged((0, 0, 0), (0.01, 0.02, 0.05), (0.02, 0.04, 0.06)).recommended == 0.5
    assert judged((0, 0, 0), (0.01, 0.03, 0.05), (0.005, 0.02, 0.06)).recommended == 0.25


def test_a_training_that_failed_is_shown_as_such(tmp_path: Path) -> None:
    result = judged((0, 0, 0), (0.01, 0.02, 0.05))
    failed = ShareJudged(asked=1.0, share=1.0, windows=0, failed="no site to learn from")
    result = SimToReal(domain=result.domain, recipe=result.recipe, judged=(*result.judged, failed))
    shown = io.StringIO()
    Console(file=shown, width=140).print(render_sim_to_real(result))
    assert "no site to learn from" in shown.getvalue()
    assert "+2.0% [+1.0%, +5.0%]" in shown.getvalue()
    assert save_figure(plot_sim_to_real([result, result]), tmp_path / "gains.png").stat().st_size > 5000


def test_no_recipe_uses_simulated_rows_that_did_not_help() -> None:
    assert all(recipe.simulated_share == 0.0 for table in RECIPES.values() for recipe in table.values())
