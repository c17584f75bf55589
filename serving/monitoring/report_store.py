"""Monitoring reports as files: one each, whole, below the data folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from features.files import storage_errors, whole_file
from serving.monitoring.report import MonitoringReport, report_from_json, report_of_site

_LOG = logging.getLogger(__name__)
_STAMP = "%Y%m%dT%H%M%S"


def new_report_id(at_s: float) -> str:
    """A report's id: its moment, then the clock of this machine, so that ids ascend where moments are equal.

    Args:
        at_s: When the report is of [s since 1970].
    """
    return f"{datetime.fromtimestamp(at_s, tz=UTC):{_STAMP}}-{time.time_ns():016x}"


class ReportStore:
    """The reports of all targets.

    Args:
        root: Folder of the reports; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, report: MonitoringReport) -> Path:
        """File of a report."""
        return self._folder(report.domain, report.target) / f"{report.id}.json"

    def add(self, report: MonitoringReport) -> Path:
        """Keep a report; its file.

        Raises:
            StorageError: The folder cannot be written or the disk is full; nothing was half-written.
        """
        path = self.path(report)
        with whole_file(path) as temporary:
            temporary.write_bytes(report.as_json())
        return path

    def latest(self, domain: str, target: str) -> MonitoringReport | None:
        """The newest report of a target, None where there is none."""
        return next(iter(self.list(domain, target, limit=1)), None)

    def list(self, domain: str, target: str, limit: int | None = None) -> tuple[MonitoringReport, ...]:
        """Reports of a target, newest first; one that cannot be read is left out, and the log says so.

        Args:
            domain: Of the target.
            target: What is forecast.
            limit: How many at most, None for all.
        """
        found: list[MonitoringReport] = []
        for path in reversed(self._files(domain, target)):
            if limit is not None and len(found) >= limit:
                break
            try:
                found.append(report_from_json(path.read_bytes()))
            except FileNotFoundError:
                continue  # expired since it was listed
            except (OSError, ValueError) as error:
                _LOG.warning("A monitoring report cannot be read: %s: %s", path, error)
        return tuple(found)

    def ids(self, domain: str, target: str) -> tuple[str, ...]:
        """Identifiers of a target's reports, newest first; none is read."""
        return tuple(path.stem for path in reversed(self._files(domain, target)))

    def read(self, domain: str, target: str, report_id: str, *, site: str | None = None) -> MonitoringReport | None:
        """One report of `ids`; None where it expired since, or cannot be read, which the log says.

        Args:
            domain: Of the target.
            target: What is forecast.
            report_id: Which.
            site: Only what is said of this one: of a large town that is read in a fraction of the time.
        """
        path = self._folder(domain, target) / f"{report_id}.json"
        try:
            content = path.read_bytes()
            return report_from_json(content) if site is None else report_of_site(content, site)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _LOG.warning("A monitoring report cannot be read: %s: %s", path, error)
            return None

    def expire(self, before_s: float) -> int:
        """Remove the reports of before a moment, but of no target the newest one; how many were removed.

        Raises:
            StorageError: A file cannot be removed.
        """
        bound = f"{datetime.fromtimestamp(before_s, tz=UTC):{_STAMP}}"
        old = [
            path
            for folder in (sorted(self.root.iterdir()) if self.root.exists() else [])
            for path in sorted(folder.glob("[0-9]*.json"))[:-1]
            if path.name < bound
        ]
        for path in old:
            with storage_errors(path):
                path.unlink(missing_ok=True)
                # The page for people that may lie beside it.
                path.with_suffix(".html").unlink(missing_ok=True)
        return len(old)

    def _folder(self, domain: str, target: str) -> Path:
        return self.root / f"{domain}-{target}"

    def _files(self, domain: str, target: str) -> Sequence[Path]:
        # Files that are being written begin with a dot.
        return sorted(self._folder(domain, target).glob("[0-9]*.json"))
