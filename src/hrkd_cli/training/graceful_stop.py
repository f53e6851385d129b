"""Ctrl-C and SIGTERM during training: the step in hand is finished and kept before the run stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Notes a signal inside its block; the run looks at ``wanted`` between steps. A second signal stops at once."""

    def __init__(self) -> None:
        self.wanted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python lets nobody handle signals
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._restore()

    def carry_out(self) -> None:
        """Do what the signal would have done, now that the run is safe."""
        number = self.wanted or signal.SIGTERM  # of another process of the run
        self._restore()
        signal.raise_signal(number)
        raise KeyboardInterrupt  # whoever handles the signal here lets it pass; the run stops all the same

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
