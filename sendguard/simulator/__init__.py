"""A stand-in for the Linq messaging API over real HTTP, for demos and tests; needs the extra `sendguard[simulator]`.

>>> with Simulator(lines=["+12025550101", "+12025550102"]) as sim:
...     client = LinqAPIV3(base_url=sim.base_url, api_key=sim.api_key)
...     sim.flip("+12025550101", status="FLAGGED")
"""

from .audits import AuditKnobs, AuditRecord
from .health import HealthModel
from .model import Delivery, DeliveryKnobs, Event, Faults, SentRecord, SimulatedLine, Subscription
from .server import Simulator

__all__ = [
    "AuditKnobs",
    "AuditRecord",
    "Delivery",
    "DeliveryKnobs",
    "Event",
    "Faults",
    "HealthModel",
    "SentRecord",
    "SimulatedLine",
    "Simulator",
    "Subscription",
]
