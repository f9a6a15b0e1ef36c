"""For all tests. Hypothesis: machines are busy, so nothing has a deadline; CI tries the same cases
each time (a run that finds a new one is yours, or `make fuzz`).

Ctrl-C: a shell starts what it sends to the background (`.ci/e2e` does) with SIGINT ignored, and
programs inherit that, so that the ones under test would never see the Ctrl-C that is tried.

dask: its profiler asks for all threads' frames, which before Python 3.12 can lock the interpreter
up for good (python/cpython#106883).
"""

from __future__ import annotations

import os
import signal

from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")
settings.register_profile(
    "lvsfab", deadline=None, derandomize="CI" in os.environ and "LVSFAB_FUZZ" not in os.environ
)
settings.load_profile("lvsfab")
