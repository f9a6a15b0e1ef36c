"""Input that could hang or take all memory, tried where it can do neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import indent

SECONDS = 30  # a busy machine's; what was mended took minutes, or never ended
BOUNDED = """
import resource, sys
from pathlib import Path
from lvsfab.errors import InputError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
there = Path(sys.argv[1])
try:
{}
except InputError as error:
    print(error)
else:
    print("taken")
"""


def answer(code: str, there: Path) -> str:
    """What `code` is refused with, or `taken`; `there` is a path that it may speak of."""
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED.format(indent(code, "    ")), str(there)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
