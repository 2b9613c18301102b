"""The servers that the tests run against, as processes. Their ports are chosen by the system."""

from __future__ import annotations

import os
import signal
import subprocess
from types import TracebackType


def binary(variable: str) -> str:
    """The path of a server, from the environment. ``test.sh`` builds the servers and sets it."""
    path = os.environ.get(variable)
    if not path or not os.access(path, os.X_OK):
        raise RuntimeError(f"{variable} has to name a server to test against: run test.sh, which builds it")
    return path


class ServerProcess:
    """A server that writes ``listening on ADDRESS``. It is killed at the end of the block."""

    def __init__(self, variable: str, *arguments: str) -> None:
        self._process = subprocess.Popen([binary(variable), *arguments], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            self.kill()
            raise RuntimeError(f"{variable} did not start: {line!r}")
        self.address = line.split()[-1]

    def terminate(self) -> None:
        """Asks it to stop in order."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def offers_server(*arguments: str, listen: str = "127.0.0.1:0") -> ServerProcess:
    """The example ``offers_server``. It publishes nothing by itself."""
    return ServerProcess("OFFERS_SERVER", "--listen", listen, "--random-every", "0", *arguments)


def kit_server() -> ServerProcess:
    """The test server of the conformance kit, with its control methods."""
    return ServerProcess("BELLWIRE_CONFORMANCE", "server", "--addr", "127.0.0.1:0")
