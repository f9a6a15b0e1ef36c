"""For all tests. Hypothesis: machines are busy, so nothing has a deadline; CI tries the same cases
each time (a run that finds a new one is yours, or `make fuzz`).

Ctrl-C: a shell starts what it sends to the background (`.ci/e2e` does) with SIGINT ignored, and
programs inherit that, so that the ones under test would never see the Ctrl-C that is tried.
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "lvsfab", deadline=None, derandomize="CI" in os.environ and "LVSFAB_FUZZ" not in os.environ
)
settings.load_profile("lvsfab")
