"""Work for the pools of batch that dies on sources whose name says so. Importable by worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from migrate.batch.journal import JournalEntry
from migrate.batch.plan import Task
from migrate.batch.task import WorkOrder, run_task


def work(order: WorkOrder, task: Task) -> list[JournalEntry]:
    """`poison…` kills its worker each time; `once…` only the first time, which a file beside it remembers."""
    for source in task.sources:
        path = Path(source.location)
        mark = path.with_name(f".{path.name}.met")
        if path.name.startswith("poison") or (path.name.startswith("once") and not mark.exists()):
            mark.write_bytes(mark.read_bytes() + b"x" if mark.exists() else b"x")
            os.kill(os.getpid(), signal.SIGKILL)
    return run_task(order, task)
