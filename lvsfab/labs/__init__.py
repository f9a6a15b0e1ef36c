"""Labs of real kernels, behind one protocol (`base.Lab`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lvsfab.labs.base import Lab
    from lvsfab.model import Inventory

BACKENDS = ("rootless", "docker")


def open_lab(inventory: Inventory) -> Lab:
    """The lab that the inventory describes, up or not. Where it leaves the backend open: the one
    the lab is up on; else Docker's when its engine answers and this machine's kernel has LVS.
    """
    from lvsfab.labs.boot import lab_spec

    wish = lab_spec(inventory).backend
    return lab_on(_choose(inventory) if wish == "auto" else wish, inventory)


def lab_on(backend: str, inventory: Inventory, directory: Path | None = None) -> Lab:
    """The inventory's lab on that backend; `directory` as the backend's class has it."""
    if backend == "docker":
        from lvsfab.labs.docker import DockerLab

        return DockerLab(inventory, directory=directory)
    from lvsfab.labs.rootless import RootlessLab

    return RootlessLab(inventory, directory=directory)


def _choose(inventory: Inventory) -> str:
    """A lab of which only its files or its containers are left counts as up: `lab up` mends it,
    `lab down` removes it. An engine keeps its containers when the directory that tells of them is
    gone (a restart of this machine, a logout).
    """
    from lvsfab.labs import docker_engine, runtime

    rootless, docker = (runtime.lab_directory(inventory.name, one) for one in BACKENDS)
    if runtime.recorded_keeper(rootless):
        return "rootless"
    for backend, directory in (("docker", docker), ("rootless", rootless)):
        if (directory / "spec").exists():
            return backend
    if not docker_engine.likely():
        return "rootless"
    return "docker" if _docker_fits(inventory) else "rootless"


def _docker_fits(inventory: Inventory) -> bool:
    """Whether the user's engine has something of this lab, or can do what this machine can."""
    from lvsfab.errors import LabError
    from lvsfab.labs import docker_engine, docker_kernel
    from lvsfab.labs.docker import DockerLab

    try:
        engine = docker_engine.connect(timeout=docker_engine.LOOK_TIMEOUT)
        try:
            if DockerLab(inventory, engine=engine).remains():
                return True
        finally:
            engine.api.close()
    except LabError:
        return False
    return engine.here and not docker_kernel.look_here().missing
