"""Whether a device still computes."""

from __future__ import annotations

# A device that fails this often in a row (out of memory, a poisoned CUDA context) needs a restart.
MAX_FAILURES = 3


class DeviceHealth:
    """Counts failures since the last good rows; a round may end well and hold no distributions."""

    def __init__(self) -> None:
        self._failures = 0
        self._last = ""

    @property
    def problem(self) -> str:
        """Why the device needs a restart; empty if it does not."""
        if self._failures < MAX_FAILURES:
            return ""
        return f"the device failed {self._failures} times in a row, the last: {self._last}"

    def succeeded(self) -> None:
        """Note rows that could be encoded."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Note a request without rows, or whose rows are not distributions (NaN)."""
        self._failures += 1
        self._last = reason
