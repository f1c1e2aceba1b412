"""Signals that ask this process to stop, as exceptions at safe points."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """Handlers of the stop signals between `install` and `restore`.

    SIGINT becomes KeyboardInterrupt, SIGTERM and SIGHUP become SystemExit(128 + signal): at once,
    or inside `held` at the next `raise_pending`. Install them in the main thread.
    """

    def __init__(self) -> None:
        self.num_received = 0
        """Since the start; grows while signals are held."""
        self._pending: list[int] = []
        self._held = False
        self._handlers: dict[int, signal._HANDLER] = {}

    def install(self) -> None:
        """Handle the signals that this process does not ignore: nohup ignores on purpose."""
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Give the signals back to their former handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep signals for `raise_pending`, because an exception could lose a child."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before

    def raise_pending(self) -> None:
        """Raise the exception of the first signal that was kept, if any."""
        if not self._pending:
            return
        number = self._pending[0]
        self._pending.clear()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.num_received += 1
        self._pending.append(number)
        if not self._held:
            self.raise_pending()
