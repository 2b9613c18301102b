"""A client of the bellwire protocol on asyncio: calls and resumable notifications on one connection.

>>> import asyncio, bellwire
>>> async def main() -> None:
...     async with bellwire.connect("localhost:7440") as client:
...         reply = await client.call("random", "6")
...         print(reply.text())
"""

from ._events import ConnectionEvents
from ._streaming import Stream
from ._subscription import Subscription
from .client import Client, Connect, connect
from .config import Config
from .core.events import (
    Connected,
    ConnectFailed,
    Connecting,
    ConnectionEvent,
    Disconnected,
    Ended,
    Leaving,
    Missed,
    RenewalFailed,
    ServerError,
    Stats,
    UnmatchedReply,
    Violation,
)
from .core.hello import Hello
from .credentials import Credentials
from .errors import (
    AuthenticationFailed,
    BellwireError,
    CallError,
    ClientClosed,
    ClosedByServer,
    ConnectionFailure,
    Failed,
    NotSent,
    ProtocolFault,
    Refused,
    SilentServer,
    TransportFailed,
    Unknown,
)
from .values import After, Delivery, End, Gap, Message, Position, Published, Reply, Reset

__all__ = [
    "After",
    "AuthenticationFailed",
    "BellwireError",
    "CallError",
    "Client",
    "ClientClosed",
    "ClosedByServer",
    "Config",
    "Connect",
    "ConnectFailed",
    "Connected",
    "Connecting",
    "ConnectionEvent",
    "ConnectionEvents",
    "ConnectionFailure",
    "Credentials",
    "Delivery",
    "Disconnected",
    "End",
    "Ended",
    "Failed",
    "Gap",
    "Hello",
    "Leaving",
    "Message",
    "Missed",
    "NotSent",
    "Position",
    "ProtocolFault",
    "Published",
    "Refused",
    "RenewalFailed",
    "Reply",
    "Reset",
    "ServerError",
    "SilentServer",
    "Stats",
    "Stream",
    "Subscription",
    "TransportFailed",
    "Unknown",
    "UnmatchedReply",
    "Violation",
    "connect",
]
