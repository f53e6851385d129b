"""Ctrl-C and SIGTERM during training: the current step is finished and saved before the run stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop:
    """Notes a signal inside its block, in ``requested``. A second signal stops at once."""

    def __init__(self) -> None:
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():  # Python handles signals in the main thread only
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        self._restore()

    def carry_out(self) -> None:
        """Do what the signal would have done, now that the run is safe."""
        number = self.requested or signal.SIGTERM  # it was another process of the run that got it
        self._restore()
        signal.raise_signal(number)
        raise KeyboardInterrupt  # where a handler lets the signal pass, the run stops all the same

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
