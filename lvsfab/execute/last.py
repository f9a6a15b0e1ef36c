"""What the last run on an inventory came to, for --retry-failed: a small file in the folder of the
user's own records.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lvsfab.errors import InputError
from lvsfab.execute.task import HostResult, State

FORMAT = "lvsfab.last-run/1"


def write(
    directory: Path, inventory: str, results: Mapping[str, HostResult], before: Iterable[str] = ()
) -> None:
    """Remember who failed; of `before`, failed in earlier runs, those whose turn it was not now.
    A state directory that cannot be written is no reason to fail a run.
    """
    failed = [host for host in before if host not in results]
    failed += [r.host for r in results.values() if r.state is not State.OK]
    text = json.dumps({"format": FORMAT, "failed": failed})
    new = directory / f".{secrets.token_hex(8)}"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        new.replace(directory / f"{inventory}.json")
    except OSError:
        with suppress(OSError):
            new.unlink()


def failed_hosts(directory: Path, inventory: str) -> tuple[str, ...]:
    """The hosts that did not succeed in the last run. InputError when there was none."""
    path = directory / f"{inventory}.json"
    try:
        found = json.loads(path.read_text())
        hosts = tuple(str(host) for host in found["failed"])
    except FileNotFoundError:
        raise InputError(f"no run on inventory {inventory} is remembered", path=path) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from None
    return hosts
