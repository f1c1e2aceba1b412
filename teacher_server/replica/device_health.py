"""Whether a device still computes."""

from __future__ import annotations

# A device that fails this often in a row (out of memory, a poisoned CUDA context) needs a restart.
MAX_FAILURES = 3


class DeviceHealth:
    """Failures since the last good rows; a round may be run and yet give no distributions (NaN)."""

    def __init__(self) -> None:
        self._failures = 0
        self._last = ""

    @property
    def problem(self) -> str:
        """Why the device needs a restart; empty: it does not."""
        if self._failures < MAX_FAILURES:
            return ""
        return f"the device failed {self._failures} times in a row, the last: {self._last}"

    def succeeded(self) -> None:
        """Good rows left it."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """A request got no rows, or rows that are none."""
        self._failures += 1
        self._last = reason
