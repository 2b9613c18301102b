"""The outcomes of a call that is no reply, and the failures of a connection."""

from __future__ import annotations


class BellwireError(Exception):
    """Each error of this package."""


class CallError(BellwireError):
    """The outcome of a call other than a reply. The class says whether the handler may have run."""

    #: Whether the handler may have run.
    may_have_run: bool = True

    def __init__(self, code: str, text: str = "") -> None:
        #: The code of the server (such as ``not-found``), or a word of this client.
        self.code = code
        #: The text of the server or of this client, for people. Control characters are escaped.
        self.text = text
        super().__init__(code, text)

    def __str__(self) -> str:
        return f"{self._meaning()}: {self.code}" + (f" ({self.text})" if self.text else "")

    def _meaning(self) -> str:
        return "the call ended without a reply"

    @property
    def is_safe_to_retry(self) -> bool:
        """Whether it is proven that the handler was not started."""
        return not self.may_have_run


class Failed(CallError):
    """``err``: the handler ran, and failed with this code."""

    def _meaning(self) -> str:
        return "the handler failed"


class Refused(CallError):
    """``no``: the handler was not started."""

    may_have_run = False

    def __init__(self, code: str, text: str = "", retry: float | None = None) -> None:
        #: The seconds after which the server suggests another attempt.
        self.retry = retry
        super().__init__(code, text)

    def _meaning(self) -> str:
        return "the server refused the request"


class Unknown(CallError):
    """``cut``, a lost connection, or the caller's deadline: the handler may have run."""

    def _meaning(self) -> str:
        return "the outcome is unknown"


class NotSent(CallError):
    """The request was not offered to the transport, so the handler has not run."""

    may_have_run = False

    def _meaning(self) -> str:
        return "the request was not sent"


class ConnectionFailure(BellwireError):
    """Why a connection ended, or could not be made."""


class TransportFailed(ConnectionFailure):
    """The network, TLS, or the other end closed the connection."""


class ProtocolFault(ConnectionFailure):
    """The server broke the protocol, or speaks another one."""


class SilentServer(ConnectionFailure):
    """The server was silent for too long."""


class ClosedByServer(ConnectionFailure):
    """The server said ``/bye``, and ended the connection."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return f"the server left: {self.reason}"


class AuthenticationFailed(ConnectionFailure):
    """The server refused the credentials, or there are none for its schemes."""

    def __init__(self, code: str, text: str = "", retry: float | None = None) -> None:
        self.code = code
        self.text = text
        self.retry = retry
        super().__init__(code, text, retry)

    def __str__(self) -> str:
        return f"authentication failed: {self.code}" + (f" ({self.text})" if self.text else "")


class ClientClosed(ConnectionFailure):
    """The application closed the client."""

    def __init__(self, text: str = "the client was closed") -> None:
        super().__init__(text)
