"""Read the resident memory of this process, file-backed pages included."""

import sys
from pathlib import Path


def rss_bytes() -> int:
    """Return the resident memory of this process now; its peak where only that is known."""
    return _status_bytes("VmRSS:") or peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process; 0 if unknown."""
    peak = _status_bytes("VmHWM:")  # ru_maxrss includes what the parent had when it forked
    if peak:
        return peak
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    """Read one field of /proc/self/status; 0 if there is none."""
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith(field)), 0)
    except OSError:
        return 0
