"""The lab host's image on the Docker engine: docker/Dockerfile, built through the engine's API.

Its base is the usual Debian slim image; where the engine can pull none, the hosts' root tree of
the rootless lab (image.py), imported: the Dockerfile finds every package in it and fetches
nothing. An image's tag is a hash of all that it is made from, so unchanged inputs build nothing.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from lvsfab.errors import LabError
from lvsfab.labs import cache
from lvsfab.labs.base import Progress
from lvsfab.labs.data import path, text
from lvsfab.labs.docker_engine import Engine, asking, explained, full
from lvsfab.labs.image import build_image, image_key
from lvsfab.labs.kernel import Kernel

LABEL = "lvsfab.image"  # of every image of ours: its key
BASE = "debian:trixie-slim"  # the Dockerfile's own default
_LAST = 15  # lines of a failed step that are shown
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_KERNEL = "kernel"  # where the Dockerfile looks for the kernel


class Recipe(NamedTuple):
    """What is built: the Dockerfile's target, the image's name, what else goes into it."""

    target: str
    tag: str
    kernel: Kernel | None


def recipe(kernel: Kernel | None, *more: str) -> Recipe:
    """`kernel` None: for an engine whose own kernel the hosts use; `more` packages."""
    inputs = [text("Dockerfile"), text("entrypoint"), image_key(*more), _own_base()]
    if kernel is None:
        return Recipe("host", f"lvsfab/host:{cache.key(*inputs)}", None)
    return Recipe("uml", f"lvsfab/uml:{cache.key(*inputs, kernel.entry.name)}", kernel)


def find(engine: Engine, kernel: Kernel | None, *more: str) -> str | None:
    """The image's name, if the engine has it."""
    tag = recipe(kernel, *more).tag
    with asking("looking for the lab's image"):
        return tag if engine.api.images(name=tag) else None


def build(engine: Engine, kernel: Kernel | None, progress: Progress, *more: str) -> str:
    """The image's name; built, with `more` packages, if the engine does not have it."""
    tag = find(engine, kernel, *more)
    if tag is not None:
        return tag
    with cache.lock("docker-image", progress):
        tag = find(engine, kernel, *more)
        if tag is None:
            base = _base(engine, more, progress)
            tag = _build(engine, recipe(kernel, *more), base, more, progress)
        return tag


def _own_base() -> str:
    """The base that the user names."""
    return os.environ.get("LVSFAB_BASE", "")


def _base(engine: Engine, more: tuple[str, ...], progress: Progress) -> str:
    """The base image: the user's own, else Debian's, else one made here of Debian's packages."""
    if own := _own_base():
        return own
    name = f"lvsfab/base:{image_key(*more)}"
    with asking("looking for the base image"):
        for known in (name, BASE):
            if engine.api.images(name=known):
                return known
    why = _pull(engine, BASE, progress)
    if not why:
        return BASE
    progress(f"no registry gives {BASE} ({why}): making the base here, from Debian's packages")
    tree = build_image(progress, *more)
    progress("importing the base into the engine")
    with asking("importing the base image"), closing(_import(engine, tree, name)) as events:
        for event in events:
            if "error" in event:
                raise LabError(f"the engine took no base image: {event['error']}")
    return name


def _pull(engine: Engine, name: str, progress: Progress) -> str:
    """Why the engine cannot pull `name`; "" when it did. LabError when its disk is full."""
    from docker.errors import APIError, DockerException

    progress(f"pulling {name}")
    repository, _, tag = name.partition(":")
    why: str | None = None
    try:
        for event in engine.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in event:  # the rest is read, else the connection stays open
                why = why if why is not None else str(event["error"])
    except APIError as error:
        why = str(error.explanation or error)
    except (DockerException, OSError) as error:
        why = str(error)
    if why is None:
        return ""
    if full(why):  # a base made here would not find room either
        raise explained(f"pulling {name}", why)
    return short(why)


def short(said: str) -> str:
    """The end of an engine's chain of complaints: the cause."""
    return said.strip().splitlines()[-1].rpartition(": ")[2][:100] if said.strip() else "no reason"


def _import(engine: Engine, tree: Path, name: str) -> Generator[dict[str, Any]]:
    """Stream the tree to the engine as an image. In it all is root's, as it is to a lab host."""
    repository, _, tag = name.partition(":")
    argv = ["tar", "-C", str(tree), "--numeric-owner", "--owner=0", "--group=0", "-cf", "-", "."]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packing:
        answer = engine.api._post(  # the SDK's own import reads a whole file into memory
            engine.api._url("/images/create"),
            data=packing.stdout,
            params={
                "fromSrc": "-",
                "repo": repository,
                "tag": tag,
                "changes": [f"LABEL {LABEL}={tag}"],
            },
            headers={"Content-Type": "application/tar"},
            timeout=600,
            stream=True,
        )
        with answer:
            engine.api._raise_for_status(answer)
            yield from engine.api._stream_helper(answer, decode=True)
        if packing.wait(60) != 0:
            assert packing.stderr is not None  # noqa: S101 - a pipe, by construction above
            raise LabError(f"tar: {packing.stderr.read().decode(errors='replace').strip()}")


def _build(
    engine: Engine, what: Recipe, base: str, more: tuple[str, ...], progress: Progress
) -> str:
    progress(f"building the image {what.tag} on {base}")
    arguments = {name: os.environ[name] for name in _PROXIES if os.environ.get(name)}
    arguments |= {"BASE": base, "MIRROR": os.environ.get("LVSFAB_MIRROR", "")}
    with context(what.kernel, more) as packed, asking("building the lab's image"):
        events = engine.api.build(
            fileobj=packed,
            custom_context=True,
            tag=what.tag,
            target=what.target,
            buildargs=arguments,
            labels={LABEL: what.tag.partition(":")[2]},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=1800,
        )
        follow(events, progress)
    return what.tag


def follow(events: Iterable[Mapping[str, Any]], progress: Progress) -> None:
    """Tell the steps of a build; LabError with the step that failed and its last lines."""
    step = error = ""
    said: list[str] = []
    for event in events:
        for line in str(event.get("stream", "")).splitlines():
            if re.match(r"Step \d+/\d+ : ", line):
                step, said = line, []
                progress(step[:100])
            elif line.strip() and not line.startswith((" --->", "Removing intermediate")):
                said.append(line)
        error = error or str(event.get("error", "")).strip()  # its end is read as well
    if error:
        tail = "".join(f"\n  {line}" for line in said[-_LAST:])
        raise LabError(
            f"the lab's image could not be built; it failed at\n  {step}{tail}\n  {error}",
            tip="the engine's disk is full: docker system df"
            if full(error + tail)
            else "LVSFAB_BASE=IMAGE names a base that has the packages already",
        )


def context(kernel: Kernel | None, more: tuple[str, ...]) -> Any:
    """The build's context, a tar: what the Dockerfile copies, and itself."""
    import tempfile

    packed = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode in (("Dockerfile", 0o644), ("packages.txt", 0o644), ("entrypoint", 0o755)):
            data = path(name).read_bytes()
            if name == "packages.txt":
                data += "".join(f"{package}\n" for package in more).encode()
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(data)
            tar.addfile(entry, io.BytesIO(data))
        if kernel is not None:
            tar.add(kernel.linux, f"{_KERNEL}/linux", filter=_plain)
            tar.add(kernel.modules, f"{_KERNEL}/modules", filter=_plain)
    packed.seek(0)
    return packed


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of who built it or when: the engine's build cache goes by what is in it."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
