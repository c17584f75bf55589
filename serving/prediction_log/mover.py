"""A process of its own that moves the journal into the store, of the lowest priority: no answer waits for it.

A thread would hold Python's lock while it decodes and enters thousands of lines a second.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

from serving.prediction_log.journal import Journal
from serving.prediction_log.moving import Complaints, move_finished
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore

_LOWEST = 19
_CLOSE_S = 60.0


class Mover:
    """The process, as the one that begins it sees it; it ends with that one, however that ends.

    Args:
        settings: Of the log.
    """

    def __init__(self, settings: PredictionLogSettings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Begin it.

        Raises:
            OSError: There is no room for another process.
        """
        # By its standard input, because an address may hold a password, which all could see among the arguments.
        told = {
            "url": self.settings.log_url,
            "journal": str(self.settings.journal_dir),
            "every_s": self.settings.prediction_log_flush_s,
        }
        # A session of its own: Ctrl-C is for the API, which ends this when it has ended itself.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.prediction_log.mover"], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Have it move what is finished, and end."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            # What it has not moved, the next start does.
            process.kill()
            process.wait()


def main() -> None:
    """Move finished segments until standard input ends, as it does with the process that began this one."""
    os.nice(_LOWEST)
    # Without a buffer: what is read ahead would not wake `select`.
    told_by = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    told = json.loads(told_by.readline())
    journal, store, complaints = Journal(Path(told["journal"])), PredictionStore(told["url"]), Complaints()
    ended = False
    while not ended:
        ended = bool(select.select([told_by], [], [], told["every_s"])[0])
        move_finished(journal, store, complaints)
    store.close()


if __name__ == "__main__":
    main()
