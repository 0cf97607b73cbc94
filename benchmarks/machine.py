"""What a measurement was made on, kept beside its raw results."""

import json
import os
import platform
import statistics
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "faiss-cpu", "faiss-gpu", "torch", "onnxruntime", "openvino", "pillow")


def facts() -> dict[str, Any]:
    """Processor, cores this process may use, load, Python and package versions, time."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
        "time": datetime.now(UTC).isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def spread(values: list[float]) -> str:
    """Median and range, three significant digits."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.3g} ({low:.3g} … {high:.3g})"


def keep(path: Path | None, results: dict[str, Any]) -> None:
    """Write raw results with the machine's facts, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": facts(), **results}, indent=1) + "\n")
