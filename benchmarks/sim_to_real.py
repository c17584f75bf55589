"""What simulated rows are worth: trained with 0, 25, 50 and 100 % of them, judged on measured rows alone.

Run: `python -m benchmarks.sim_to_real [--data DIR] [--quick] [--pictures DIR]`. Every domain at recipe `quick`; the
rollouts, of the built-in town and zones, end where the measured test begins. In full it takes some 30 minutes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.report import arguments, print_result, wide_console
from pipelines.quiet import quiet_libraries
from pipelines.settings import Settings
from pipelines.sim_to_real import SHARES, SimToReal, judge_simulated, plot_sim_to_real, render_sim_to_real
from training.plots import save_figure

_DOMAINS = ("traffic", "demand", "pollution", "water")


def main() -> None:
    """Judge every domain."""
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--pictures", type=Path, help="folder for the picture")
    parser.add_argument("--only", choices=_DOMAINS, help="one domain")
    options = parser.parse_args()
    quiet_libraries()
    console, progress, results = wide_console(), Console(stderr=True), list[SimToReal]()
    domains = ("water",) if options.quick else (options.only,) if options.only else _DOMAINS
    with tempfile.TemporaryDirectory() as temporary:
        for name in domains:
            # A store for each: rollouts of several domains come together, on a clock that one of them sets.
            settings = Settings(data_dir=Path(temporary) / name)
            result = judge_simulated(
                name,
                data=options.data,
                weeks=12 if options.quick else 30,
                settings=settings,
                console=progress,
                shares=(0.0, 0.5) if options.quick else SHARES,
            )
            console.print(render_sim_to_real(result))
            results.append(result)
    for result in results:
        verdict = f"use {result.recommended:.0%}" if result.recommended else "they do not help: use none"
        console.print(f"{result.domain.name}: by the validation weeks, {verdict}")
    if options.pictures:
        save_figure(plot_sim_to_real(results), options.pictures / "sim_to_real.png")
    print_result("sim_to_real", {result.domain.name: _figures(result) for result in results})


def _figures(result: SimToReal) -> dict[str, object]:
    shares = {
        f"{entry.asked:.0%}": {"failed": entry.failed}
        if entry.failed
        else {
            "share": round(entry.share, 3),
            "windows": entry.windows,
            "mae": round(entry.mae, 4),
            "rmse": round(entry.rmse, 4),
            "gain": round(entry.gain, 4),
            "gain_90": [round(end, 4) for end in entry.gain_90],
            "validation_gain": round(entry.validation_gain, 4),
            "validation_gain_90": [round(end, 4) for end in entry.validation_gain_90],
        }
        for entry in result.judged
    }
    return {"shares": shares, "recommended": result.recommended, "recipe_uses": result.recipe.simulated_share}


if __name__ == "__main__":
    main()
