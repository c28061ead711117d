"""What is kept of runs: all of them as data, and a table made from it."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from benchmarks.chaos import figures
from benchmarks.chaos.run import SCENARIOS


def load(directory: Path) -> dict[str, Any]:
    """Return what is kept of earlier runs."""
    path = directory / "ha.json"
    return json.loads(path.read_text()) if path.exists() else {"runs": []}


def write(directory: Path, data: dict[str, Any]) -> str:
    """Keep all runs and their table; return the table."""
    directory.mkdir(parents=True, exist_ok=True)
    data |= {"cpus": os.cpu_count(), "kernel": platform.release(), "machine": platform.machine()}
    data["memory_mb"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    text = figures.table(data["runs"], {name: one.title for name, one in SCENARIOS.items()})
    temporary = directory / "ha.json.tmp"
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(directory / "ha.json")
    (directory / "ha.md").write_text(text)
    return text
