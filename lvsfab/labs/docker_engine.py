"""The Docker engine: reaching it, what it says of itself, and its errors in our words."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError

MIN_API = (1, 41)  # Docker 20.10: the oldest whose bridges may go without an address
FAULTY = ((20, 10), (20, 10, 10))  # from, to: there no program of today may start threads
TIMEOUT = 60.0  # seconds for one answer of the engine
LOOK_TIMEOUT = 10.0  # the same, while nobody has asked for an engine
SOCKET = Path("/var/run/docker.sock")

ROOTLESS = "or use the lab that needs no engine: --backend rootless"
START = f"start it (sudo systemctl start docker; by hand: sudo dockerd), {ROOTLESS}"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers. `api` is the SDK's low-level client (docker.APIClient), `kernel`
    the release of the kernel that its containers share, `level` the newest API that it speaks,
    `name` its machine's.
    """

    api: Any
    version: str
    kernel: str
    url: str
    level: tuple[int, ...] = MIN_API
    name: str = ""

    @property
    def here(self) -> bool:
        """Whether it is this machine's, as far as can be told: a socket of this machine, the same
        release of the kernel, the same name. (Docker Desktop has a kernel of its own; a socket may
        lead to another machine by ssh.)
        """
        return (
            self.url.startswith(("unix://", "http+docker://"))
            and self.kernel == os.uname().release
            and self.name == os.uname().nodename
        )


def likely() -> bool:
    """Whether there may be an engine to ask: an address, a socket, or a context of the docker
    command's. Without the SDK, whose import alone takes its time.
    """
    if os.environ.get("DOCKER_HOST") or SOCKET.exists():
        return True
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    with suppress(OSError, ValueError, AttributeError):
        config = json.loads((Path(folder).expanduser() / "config.json").read_text())
        return bool(config.get("currentContext", "default") != "default")
    return False


def connect(open_client: Callable[[], Any] | None = None, timeout: float = TIMEOUT) -> Engine:
    """The user's engine: DOCKER_HOST, else the docker command's current context, else the usual
    socket. LabError when there is none, or none that will do. `timeout`: seconds for one answer.
    """
    from docker.errors import DockerException

    try:
        api = (open_client or partial(_client, timeout))()
        said = api.version()
        name = str(api.info().get("Name", ""))
    except (DockerException, OSError) as error:  # requests' errors are OSErrors
        raise unreachable(error) from error
    version = str(said.get("Version", "?"))
    level = _numbers(str(said.get("ApiVersion", "0")))
    if level < MIN_API or FAULTY[0] <= _numbers(version) < FAULTY[1]:
        raise LabError(
            f"the Docker engine is too old: {version} (API {said.get('ApiVersion')})",
            tip=f"Docker 20.10.10 or newer will do, {ROOTLESS}",
        )
    if said.get("Os", "linux") != "linux" or said.get("Arch", "amd64") not in ("amd64", "x86_64"):
        raise LabError(
            f"the Docker engine runs {said.get('Os')} on {said.get('Arch')}: the lab's hosts are "
            "Linux on x86-64"
        )
    kernel = str(said.get("KernelVersion", ""))
    return Engine(api, version, kernel, str(api.base_url), level, name)


def _client(timeout: float) -> Any:
    from docker.api import APIClient
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    given = kwargs_from_env()
    if "base_url" not in given:
        context = ContextAPI.get_current_context()
        if context is not None and context.Host:
            given = {"base_url": context.Host, "tls": context.TLSConfig or False}
    url = given.get("base_url", f"unix://{SOCKET}")
    if url.startswith("unix://"):  # a refusal in the system's own words, before the SDK wraps it
        with socket.socket(socket.AF_UNIX) as trying:
            trying.connect(url.removeprefix("unix://"))
    elif url.startswith("ssh://"):
        given["use_ssh_client"] = True
    return APIClient(version="auto", timeout=timeout, num_pools=40, **given)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(p.isdigit() for p in parts) else (0,)


def resident(engine: Engine, container: str) -> int | None:
    """MiB that a container's processes use, each shared page counted once: by the engine's `ps`;
    where that knows no PSS, by the memory cgroup; None where there is neither.
    """
    from docker.errors import DockerException

    with suppress(DockerException, OSError, ValueError):  # it may have ended just now
        said = engine.api.top(container, "-o pid,pss")
        return sum(int(row[-1]) for row in said["Processes"]) >> 10
    with suppress(DockerException, OSError):
        said = engine.api.stats(container, stream=False, one_shot=True)
        used = said.get("memory_stats", {}).get("usage")
        return used >> 20 if used is not None else None
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it was made of: causes, contexts, errors among its arguments."""
    seen: list[BaseException] = []
    todo = [error]
    while todo:
        one = todo.pop(0)
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        parts = [one.__cause__, one.__context__, *one.args, getattr(one, "reason", None)]
        todo += [part for part in parts if isinstance(part, BaseException)]


def unreachable(error: BaseException) -> LabError:
    """Why no engine answers, and what to do about it."""
    where = os.environ.get("DOCKER_HOST") or "the usual socket"
    numbers = {cause.errno for cause in causes(error) if isinstance(cause, OSError)}
    if numbers & {errno.EACCES, errno.EPERM}:
        return LabError(
            f"no permission to speak to the Docker engine ({where})",
            tip="join the group docker and log in again: sudo usermod -aG docker $USER "
            f"({ROOTLESS})",
        )
    if numbers & {errno.ENOENT, errno.ECONNREFUSED}:
        return LabError(f"no Docker engine answers at {where}", tip=START)
    if "too old" in str(error) or "minimum supported" in str(error).lower():
        return LabError(f"the Docker engine cannot be used: {error}", tip=ROOTLESS)
    return LabError(f"no Docker engine answers at {where}: {error}", tip=START)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Within it, an error of the engine is a LabError: "WHAT: the engine says ..."."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        raise explained(what, str(error.explanation or error)) from error
    except DockerException as error:
        raise LabError(f"{what}: {error}") from error
    except OSError as error:
        if any("timed out" in str(cause).lower() for cause in causes(error)):
            raise LabError(
                f"{what}: the Docker engine did not answer within {TIMEOUT:.0f} s",
                tip="is the machine overloaded, or its disk? `lvsfab lab up` goes on from here",
            ) from error
        raise LabError(
            f"{what}: the Docker engine is gone: {error}", tip="`lvsfab lab up` goes on from here"
        ) from error


def full(said: str) -> bool:
    """Whether an engine's complaint is that its disk is full."""
    low = said.lower()
    return "no space left on device" in low or "disk quota exceeded" in low


def explained(what: str, said: str) -> LabError:
    """An engine's complaint, with what to do where that is known."""
    low = said.lower()
    tip = ""
    if full(low):
        tip = "the engine's disk is full; see what is on it: docker system df"
    elif "is already in use by container" in low or "already exists" in low:
        tip = "something that is not the lab's has the name; rename it, or the inventory's `name:`"
    elif "has active endpoints" in low:
        tip = (
            "docker network inspect names what is on it; take it off (docker network disconnect "
            "--force NETWORK CONTAINER), then lvsfab lab down. If it names nothing, the engine "
            "has lost count: restart it first"
        )
    elif "overlaps with other one" in low:
        tip = "another network came in between; see: docker network ls"
    return LabError(f"{what}: the Docker engine says: {said.strip()}", tip=tip)
