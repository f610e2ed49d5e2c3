"""Several simulated runs side by side: what each needs until its metric is at the target.

Not here: running them (`command.py`), the picture (`pictures.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from simulator.runs.curves import best_of, common_target, reached
from simulator.runs.pictures import draw_comparison
from simulator.runs.report import Report, clock_text, size_text

__all__ = ["Comparison"]


class Comparison:
    """Runs that learn the same.

    Args:
        reports: of the runs, two at least.

    Raises:
        ConfigError: they do not stop at the same metric.
    """

    def __init__(self, reports: Sequence[Report]) -> None:
        metrics = {report.curve.metric for report in reports}
        if len(metrics) > 1:
            raise ConfigError(
                f"stop.metric differs between the scenarios: {', '.join(sorted(metrics))}",
                hint="runs are compared by one metric",
            )
        self._reports = reports
        self._curves = [report.curve for report in reports]
        self.target = common_target(
            self._curves, {report.name: report.fields["metric"]["target"] for report in reports}
        )

    def fields(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "metric": self._curves[0].metric,
            "target": self.target,
            "runs": [
                {
                    "run": report.name,
                    "folder": str(report.folder),
                    "scenario": report.fields["scenario"],
                    "best": best_of(report.curve),
                    "reached": None if (cost := self._cost(report)) is None else asdict(cost),
                    "report": report.fields,
                }
                for report in self._reports
            ],
        }

    def save(self, folder: Path) -> list[Path]:
        """Write `comparison.json` and, with matplotlib, `comparison.png`; return what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "comparison.json"]
        paths[0].write_text(json.dumps(self.fields(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        if draw_comparison(self._curves, folder / "comparison.png", target=self.target):
            paths.append(folder / "comparison.png")
        return paths

    def lines(self) -> list[str]:
        """Return a table for a person."""
        metric = self._curves[0].metric
        if self.target is None:
            return [f"nobody has a value of {metric}: there is nothing to compare"]
        widest = max(len("run"), *(len(report.name) for report in self._reports))
        goal = f"to {metric} {self.target:.4g}"
        head = f"{'run':{widest}}  {goal:>22}{'up':>10}{'down':>10}{'device-s':>12}{'best':>10}"
        return [head, *(self._line(report, widest) for report in self._reports)]

    def _line(self, report: Report, widest: int) -> str:
        cost, best = self._cost(report), best_of(report.curve)
        said = "none" if best is None else f"{best:.4f}"
        if cost is None:
            return f"{report.name:{widest}}  {'not reached':>22}{'':10}{'':10}{'':12}{said:>10}"
        return (
            f"{report.name:{widest}}  {clock_text(cost.at_s):>22}{size_text(cost.bytes_up):>10}"
            f"{size_text(cost.bytes_down):>10}{cost.device_s:12,.0f}{said:>10}"
        )

    def _cost(self, report: Report) -> Any:
        return None if self.target is None else reached(report.curve, self.target)
