"""A client of the bellwire protocol on Twisted: calls as Deferreds, and resumable notifications.

The values, outcomes and events are those of the package ``bellwire``, whose core this client uses.
"""

from ._streaming import OnItem
from ._subscription import OnDelivery, Subscription
from .client import Client

__all__ = ["Client", "OnDelivery", "OnItem", "Subscription"]
