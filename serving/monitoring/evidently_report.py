"""Evidently's page on how inputs and errors have moved: for people to read. Nothing is decided by it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.errors import NotEnoughDataError, TowncastError
from features.files import whole_file

ACTUAL, FORECAST = "actual", "median"
"""Columns that Evidently's regression section is about, as realised forecasts call them."""
_FEWEST_ROWS = 10


class MissingEvidentlyError(TowncastError):
    """Evidently is not installed."""


def write_report(
    reference: pd.DataFrame, recent: pd.DataFrame, path: Path, *, rng: np.random.Generator, most_rows: int = 4000
) -> Path:
    """Write Evidently's page: drift of each column, its statistics, and errors where there are forecasts.

    Its tests know nothing of hours and seasons: on a town's readings they call most healthy weeks drifted.

    Args:
        reference: What is usual: a row for each moment and site, numbers and names in its columns. Where at least ten
            rows have `actual` and `median`, and of `recent` too, these rows alone count and their errors are compared.
        recent: What is looked at; columns that only one of them has are left out.
        path: The HTML file, which takes no file from any other host.
        rng: Chooses the rows, where there are more than `most_rows`.
        most_rows: Most rows of each that are looked at, in their order.

    Returns:
        The path.

    Raises:
        MissingEvidentlyError: Evidently is not installed.
        NotEnoughDataError: A table has fewer than ten rows, or they share no column with values.
        StorageError: The folder cannot be written or the disk is full; nothing was half-written.
    """
    columns = _shared_columns(reference, recent)
    with_errors = {ACTUAL, FORECAST} <= set(columns) and all(
        len(table.dropna(subset=[ACTUAL, FORECAST])) >= _FEWEST_ROWS for table in (reference, recent)
    )
    if not with_errors:
        columns = [name for name in columns if name not in (ACTUAL, FORECAST)]
    tables = [_chosen(table[columns], with_errors, most_rows, rng) for table in (reference, recent)]
    rows = [len(table) for table in tables]
    if not columns or min(rows) < _FEWEST_ROWS:
        raise NotEnoughDataError(
            "There is too little for a page of Evidently",
            found=f"{rows[0]} rows of reference, {rows[1]} recent ones, {len(columns)} columns",
            remedy=f"Give at least {_FEWEST_ROWS} rows of each, with the same columns.",
        )
    text = _page(*tables, with_errors=with_errors)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _shared_columns(reference: pd.DataFrame, recent: pd.DataFrame) -> list[str]:
    """Columns with values in both, apart from moments, which always move on."""
    return [
        name
        for name in reference.columns
        if name in recent.columns
        and not pd.api.types.is_datetime64_any_dtype(reference[name])
        and reference[name].notna().any()
        and recent[name].notna().any()
    ]


def _chosen(table: pd.DataFrame, with_errors: bool, most_rows: int, rng: np.random.Generator) -> pd.DataFrame:
    if with_errors:
        table = table.dropna(subset=[ACTUAL, FORECAST])
    if len(table) > most_rows:
        table = table.iloc[np.sort(rng.choice(len(table), most_rows, replace=False))]
    return table.reset_index(drop=True)


def _page(reference: pd.DataFrame, recent: pd.DataFrame, *, with_errors: bool) -> str:
    # Read at Evidently's import; its user interface, which is not used here, would report to its makers.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # It warns of its own and its dependencies' ways, and of divisions by zero in columns that are constant.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            from evidently import DataDefinition, Dataset, Regression, Report
            from evidently.presets import DataDriftPreset, DataSummaryPreset, RegressionPreset
        except ImportError as error:
            remedy = 'Install it: pip install "towncast[monitor]". Monitoring itself needs it not.'
            raise MissingEvidentlyError("Evidently is not installed", found=str(error), remedy=remedy) from error

        names = [name for name in reference.columns if not pd.api.types.is_numeric_dtype(reference[name])]
        numbers = [name for name in reference.columns if name not in names]
        definition = DataDefinition(
            numerical_columns=numbers,
            categorical_columns=names,
            regression=[Regression(target=ACTUAL, prediction=FORECAST)] if with_errors else None,
        )
        sections: list[Any] = [DataDriftPreset(), DataSummaryPreset()]
        if with_errors:
            sections.insert(0, RegressionPreset())
        data = [Dataset.from_pandas(table, data_definition=definition) for table in (recent, reference)]
        return str(Report(sections).run(*data).get_html_str(as_iframe=False))
