"""What the shells of all frameworks share: the loop that does what the core says."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from ..errors import ConnectionFailure
from .core import Core
from .events import (
    Authenticate,
    Close,
    ConnectionEvent,
    Happened,
    Open,
    Output,
    RoundFailed,
    Write,
)


class Shell(ABC):
    """Drives a `Core`. A shell calls the core, and then `run`, or `schedule` on behalf of the application."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._is_scheduled = False
        self._is_running = False

    def schedule(self) -> None:
        """Has `run` called soon: requests of one turn of the event loop are written together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self.call_soon()

    def run(self) -> None:
        """Does what the core says until it says nothing more."""
        self._is_scheduled = False
        if self._is_running:
            return
        self._is_running = True
        try:
            while outputs := self.core.outputs(self.now()):
                for output in outputs:
                    self._do(output)
        finally:
            self._is_running = False
        for handle in self.core.woken():
            if handle.waker is not None:
                handle.waker()
        due = math.inf if self.core.ended is not None else self.core.due()
        self.set_timer(due if math.isfinite(due) else None)

    def _do(self, output: Output) -> None:
        match output:
            case Write(number=number, data=data):
                self.write(number, data)
            case Open():
                self.open(output)
            case Authenticate():
                self.authenticate(output)
            case Close(number=number):
                self.close(number)
            case RoundFailed(error=error):
                self.round_failed(error)
            case Happened(event=event):
                self.tell(event)

    def on_timer(self) -> None:
        """The timer has run out."""
        self.core.timer(self.now())
        self.run()

    @abstractmethod
    def now(self) -> float:
        """The time of a clock that does not go back, in seconds."""

    @abstractmethod
    def call_soon(self) -> None:
        """Has `run` called in the next turn of the event loop."""

    @abstractmethod
    def set_timer(self, due: float | None) -> None:
        """Has `on_timer` called at this time, and at no other."""

    @abstractmethod
    def open(self, output: Open) -> None:
        """Begins to connect."""

    @abstractmethod
    def write(self, number: int, data: bytes) -> None:
        """Hands bytes to a transport."""

    @abstractmethod
    def close(self, number: int) -> None:
        """Drops an attempt to connect, or closes a transport behind what was written."""

    @abstractmethod
    def authenticate(self, output: Authenticate) -> None:
        """Finds credentials."""

    @abstractmethod
    def round_failed(self, error: ConnectionFailure) -> None:
        """No address could be connected to in a round."""

    @abstractmethod
    def tell(self, event: ConnectionEvent) -> None:
        """Tells the application of an event."""
