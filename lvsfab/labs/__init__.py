"""Labs of real kernels, behind one protocol (`base.Lab`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvsfab.labs.base import Lab
    from lvsfab.model import Inventory

BACKENDS = ("rootless", "docker")
_SOCKET = Path("/var/run/docker.sock")


def open_lab(inventory: Inventory) -> Lab:
    """The lab that the inventory describes, up or not. Where it leaves the backend open: the one
    the lab is up on; else Docker's when its engine answers and this machine's kernel has LVS.
    """
    from lvsfab.labs.boot import lab_spec

    wish = lab_spec(inventory).backend
    if wish == "auto":
        wish = _choose(inventory)
    if wish == "docker":
        from lvsfab.labs.docker import DockerLab

        return DockerLab(inventory)
    from lvsfab.labs.rootless import RootlessLab

    return RootlessLab(inventory)


def _choose(inventory: Inventory) -> str:
    from lvsfab.errors import LabError
    from lvsfab.labs import docker_kernel, runtime

    if (directory := runtime.base_directory() / inventory.name).exists():
        return "rootless"
    if directory.with_name(f"{inventory.name}.docker").exists():
        return "docker"
    if not (_SOCKET.exists() or "DOCKER_HOST" in os.environ):
        return "rootless"
    if docker_kernel.look_here().missing:
        return "rootless"
    from lvsfab.labs.docker_engine import connect

    try:
        engine = connect()
    except LabError:
        return "rootless"
    engine.api.close()
    return "docker" if engine.here else "rootless"
