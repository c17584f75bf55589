"""NannyML by weekly chunks, in an environment of its own: `python nannyml_chunks.py in.npz out.npz`.

Reads rows: `site`, `week` (of the reference from 0 on, of what is analysed from 1000 on), `second` within the week,
`reading`, `median`, `width` and `steps`. Writes for each site and analysed week whether three detectors, all with their
defaults, alarm: the estimate of the error without actuals (DLE), the error itself (realised performance), and
univariate drift (Jensen-Shannon) of readings and forecasts.
"""

import os
import sys
import warnings

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.filterwarnings("ignore")

import nannyml as nml  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

FIRST = pd.Timestamp("2000-01-03")
# The forecast itself is among the features by default.
FEATURES = ["width", "steps", "hour_of_week"]
with np.load(sys.argv[1]) as given:
    table = pd.DataFrame({name: given[name] for name in given.files})
table["moment"] = FIRST + pd.to_timedelta(table["week"] * 7 * 86400 + table["second"], unit="s")
table["hour_of_week"] = table["second"] // 3600
common = {"timestamp_column_name": "moment", "chunk_period": "W"}


def weeks(result, *columns):
    """Number of each analysed week with an alarm in one of some columns."""
    frame = result.filter(period="analysis").to_df()
    start = pd.DatetimeIndex(
        frame[("chunk", "chunk", "start_date") if frame.columns.nlevels == 3 else ("chunk", "start_date")]
    )
    number = ((start.normalize() - FIRST) // pd.Timedelta(days=7)).to_numpy()
    alarm = np.any([frame[column].to_numpy(dtype=bool) for column in columns], axis=0)
    return number[alarm]


found = {"dle": [], "performance": [], "univariate": []}
for site, rows in table.groupby("site"):
    rows = rows.sort_values("moment")
    reference, analysed = rows[rows["week"] < 1000], rows[rows["week"] >= 1000]
    dle = nml.DLE(feature_column_names=FEATURES, y_pred="median", y_true="reading", metrics=["mae"], **common).fit(
        reference
    )
    performance = nml.PerformanceCalculator(
        y_pred="median", y_true="reading", problem_type="regression", metrics=["mae"], **common
    ).fit(reference)
    univariate = nml.UnivariateDriftCalculator(column_names=["reading", "median"], **common).fit(reference)
    for name, alarms in (
        ("dle", weeks(dle.estimate(analysed), ("mae", "alert"))),
        ("performance", weeks(performance.calculate(analysed), ("mae", "alert"))),
        (
            "univariate",
            weeks(
                univariate.calculate(analysed),
                ("reading", "jensen_shannon", "alert"),
                ("median", "jensen_shannon", "alert"),
            ),
        ),
    ):
        found[name] += [(site, week) for week in alarms]
np.savez(sys.argv[2], **{name: np.array(pairs, dtype=np.int64).reshape(-1, 2) for name, pairs in found.items()})
