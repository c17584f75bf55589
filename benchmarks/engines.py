"""What the engines cost beside the bare ones, and how many rows rollouts give.

Run: `python -m benchmarks.engines [--data DIR] [--quick]`. SUMO on the Bologna scenarios (`DIR/sumo/bologna`), GEKKO
beside native integration, and rollouts into the store and Feast. Ratios are of interleaved pairs in one run.
"""

from __future__ import annotations

import argparse

from benchmarks import engine_processes, engine_traffic
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.rollouts import render_rollouts, rollout_figures
from pipelines.quiet import quiet_libraries

_PARTS = ("traffic", "processes", "rollouts")


def main() -> None:
    """Measure all, or one part."""
    options = _options()
    quiet_libraries()
    console, figures = wide_console(), {}
    chosen = _PARTS if options.only is None else (options.only,)

    def show(text: str) -> None:
        console.print(f"[dim]{text}[/]")

    if "traffic" in chosen:
        figures["traffic"] = engine_traffic.traffic_figures(data=options.data, quick=options.quick, show=show)
        console.print(engine_traffic.render(figures["traffic"]))
    if "processes" in chosen:
        figures["processes"] = engine_processes.process_figures(quick=options.quick, show=show)
        console.print(engine_processes.render(figures["processes"]))
    if "rollouts" in chosen:
        figures["rollouts"] = rollout_figures(quick=options.quick, console=console, show=show)
        console.print(render_rollouts(figures["rollouts"]))
    print_result("engines", figures)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--only", choices=_PARTS, help="one part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
