"""Verify: requests from the client, counters and tables of every host, and a judge that is pure.

`verify` sends and observes; `judge` alone turns an `Observation` into a `Verdict`.
"""

from __future__ import annotations

from lvsfab.verify.judge import judge
from lvsfab.verify.run import verify
from lvsfab.verify.verdict import Check, ServerRow, Status, Verdict

__all__ = ["Check", "ServerRow", "Status", "Verdict", "judge", "verify"]
