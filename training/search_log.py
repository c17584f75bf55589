"""A search in MLflow: a run of its own, a nested run for each trial, pictures, and the recipe that it found."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from features.files import whole_file
from training.plots import save_figure
from training.recipes import Recipe
from training.search_plots import plot_importance, plot_search_history
from training.studies import finished_trials, importances, progress_of
from training.tracking import Tracking
from training.tune import FOLD_LOSSES, PRESENT

PARENT_TAG = "mlflow.parentRunId"
SEARCH_TAG, STUDY_TAG = "search", "study"
_NUMBER_TAG, _STATE_TAG = "trial", "state"


class SearchLog:
    """Writes the trials of a study as nested runs, each once.

    Args:
        tracking: The MLflow store.
        run_id: The search's own run; what it has already is not written again.
    """

    def __init__(self, tracking: Tracking, run_id: str) -> None:
        self.client = tracking.connect()
        self.run_id = run_id
        self.experiment = str(self.client.get_run(run_id).info.experiment_id)
        self.written = {int(run.data.tags[_NUMBER_TAG]) for run in nested_runs(self.client, run_id)}

    def write(self, study: Study) -> None:
        """Write the trials that have finished since."""
        for trial in finished_trials(study):
            if trial.number not in self.written:
                self._write(study, trial)
                self.written.add(trial.number)

    def _write(self, study: Study, trial: FrozenTrial) -> None:
        from mlflow.entities import Metric, Param, RunTag

        begin, end = (
            None if moment is None else int(1000 * moment.timestamp())
            for moment in (trial.datetime_start, trial.datetime_complete)
        )
        tags = {
            PARENT_TAG: self.run_id,
            STUDY_TAG: study.study_name,
            _NUMBER_TAG: str(trial.number),
            _STATE_TAG: trial.state.name.lower(),
        }
        name = f"trial-{trial.number:03d}"
        run_id = self.client.create_run(self.experiment, start_time=begin, run_name=name).info.run_id
        at = end or 0
        figures = [
            Metric("mean_relative_loss", value, at, step)
            for step, value in trial.intermediate_values.items()
            if math.isfinite(value)
        ]
        for fold, value in enumerate(trial.user_attrs.get(FOLD_LOSSES, ()), start=1):
            figures.append(Metric("fold_relative_loss", value, at, fold))
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            figures.append(Metric("relative_loss", trial.value, at, 0))
        self.client.log_batch(
            run_id,
            metrics=figures,
            params=[Param(key, str(value)) for key, value in trial.params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self.client.set_terminated(run_id, "FINISHED", end_time=end)

    def conclude(self, study: Study, found: Recipe, folder: Path, *, title: str) -> None:
        """Write what was found: figures, the recipe, and pictures of history and importance.

        Args:
            study: Finished, or stopped.
            found: The recipe that the best trial makes.
            folder: Where files are made on the way.
            title: What was searched for.
        """
        progress = progress_of(study)
        for key, value in asdict(progress).items():
            if value is not None:
                self.client.log_metric(self.run_id, key, float(value))
        draw_search(study, folder, title=title)
        with whole_file(folder / "best_recipe.json") as path:
            path.write_text(json.dumps(best_recipe(study, found), indent=2) + "\n", encoding="utf-8")
        self.client.log_artifacts(self.run_id, str(folder), artifact_path="search")


def nested_runs(client: Any, run_id: str) -> list[Any]:
    """All runs nested in a run."""
    experiment = client.get_run(run_id).info.experiment_id
    found: list[Any] = []
    page = None
    while True:
        runs = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{run_id}'", page_token=page)
        found.extend(runs)
        page = runs.token
        if not page:
            return found


def best_recipe(study: Study, found: Recipe) -> dict[str, Any]:
    """What was found, for a file."""
    best = study.best_trial
    return {
        "study": study.study_name,
        "trial": best.number,
        "relative_loss": best.value,
        "parameters": best.params,
        "recipe": asdict(found),
    }


def draw_search(study: Study, folder: Path, *, title: str) -> list[Path]:
    """Pictures of the history and, where there are enough trials to tell, of the importance of each choice."""
    shown = [trial for trial in finished_trials(study) if trial.intermediate_values]
    complete = [trial for trial in shown if trial.state == TrialState.COMPLETE]
    history = plot_search_history(
        title=title,
        number=[trial.number for trial in shown],
        first=[trial.intermediate_values[1] for trial in shown],
        mean=[math.nan if trial.value is None or trial not in complete else trial.value for trial in shown],
        present=next((trial.number for trial in complete if PRESENT in trial.user_attrs), None),
    )
    made = [save_figure(history, folder / "history.png")]
    importance = importances(study)
    if importance:
        made.append(
            save_figure(plot_importance(title="What matters", importance=importance), folder / "importance.png")
        )
    return made
