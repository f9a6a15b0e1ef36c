"""`lvsfab lab ...`: the lab's part of the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lvsfab.cli_common import backend_option, common, open_app
from lvsfab.errors import InputError, LabError

if TYPE_CHECKING:
    from lvsfab.app import App
    from lvsfab.labs.base import Lab
    from lvsfab.report import Reporter

STATUS = "lvsfab.lab-status/1"
SSH_FAILED = 255  # ssh's own exit status when it, not the command, failed


@click.group()
def lab() -> None:
    """The lab: real kernels on this machine, with no root or KVM; or on a Docker engine."""


def _opened(report: Reporter, inventory: str, backend: str | None) -> tuple[App, Lab]:
    app = open_app(report, inventory, backend)
    if app.lab is None:
        raise InputError("this inventory has no `lab:` section", path=app.inventory.path)
    return app, app.lab


def _host(app: App, name: str) -> str:
    if name not in app.inventory.hosts:
        raise InputError(f"no host `{name}`", tip=f"hosts: {', '.join(app.inventory.hosts)}")
    return name


@lab.command()
@backend_option
@common()
def up(report: Reporter, inventory: str, backend: str | None) -> None:
    """Start the lab; wait until every host answers SSH."""
    app, found = _opened(report, inventory, backend)
    found.up(app.progress)
    report.say(f"lab {found.name}: {len(app.inventory.hosts)} hosts answer SSH")


@lab.command()
@backend_option
@common()
def down(report: Reporter, inventory: str, backend: str | None) -> None:
    """End the lab; nothing of it is left."""
    app, found = _opened(report, inventory, backend)
    found.down(app.progress)


@lab.command()
@backend_option
@common()
def status(report: Reporter, inventory: str, backend: str | None) -> None:
    """Each host: kernel, address, memory, since when, SSH ready."""
    from dataclasses import asdict

    from lvsfab.report import table

    _, found = _opened(report, inventory, backend)
    rows = found.status()
    if report.as_json:
        report.document(STATUS, {"name": found.name, "hosts": [asdict(row) for row in rows]})
        return
    head = ("HOST", "STATE", "KERNEL", "ADDRESS", "MEMORY", "SINCE", "SSH", "")
    lines = [
        (
            row.name,
            row.state,
            row.kernel,
            row.address,
            f"{row.resident if row.resident is not None else '-'}/{row.memory} MiB",
            f"{row.since:.0f} s" if row.since is not None else "-",
            "yes" if row.ssh else "no",
            row.detail,
        )
        for row in rows
    ]
    for line in table(lines, head):
        report.result(line)


@lab.command()
@click.option(
    "--kernel",
    type=click.Choice(["prebuilt", "built"]),
    default="prebuilt",
    show_default=True,
    help="Debian's own (quick to get), or one built here from source (complete).",
)
@backend_option
@common()
def build(report: Reporter, inventory: str, backend: str | None, kernel: str) -> None:
    """Build what a lab boots from: the hosts' root tree and a kernel (cached)."""
    from lvsfab.labs.image import build_image
    from lvsfab.labs.kernel import build_kernel

    app = open_app(report, inventory, backend)
    made = build_kernel(kernel, report.say)
    spec = app.inventory.lab
    more = spec.packages if spec is not None else ()
    if spec is not None and spec.backend == "docker":
        from lvsfab.labs import docker_engine, docker_image

        image = docker_image.build(docker_engine.connect(), made, report.say, *more)
    else:
        image = str(build_image(report.say, *more))
    report.result(f"image   {image}")
    report.result(f"kernel  {made.linux} ({made.version}, {made.origin})")


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1)
@backend_option
@common()
def ssh(
    report: Reporter, inventory: str, backend: str | None, host: str, command: Sequence[str]
) -> None:
    """Log in to HOST, or run a command there: lvsfab lab ssh rs1 -- ip addr."""
    import tempfile

    app, found = _opened(report, inventory, backend)
    _host(app, host)
    if not found.running():
        raise InputError("the lab is not up", tip="lvsfab lab up")
    with tempfile.NamedTemporaryFile("w", prefix="lvsfab-", suffix=".ssh_config") as config:
        config.write(found.ssh_config())
        config.flush()
        argv = ["ssh", "-F", config.name, host, *command]
        # ssh gives its ProxyCommand to $SHELL with a socket as standard input: bash would take
        # that for a login from elsewhere, and run all of the user's ~/.bashrc first
        env = {**os.environ, "SHELL": "/bin/sh"}
        status = os.spawnvpe(os.P_WAIT, argv[0], argv, env)  # noqa: S606 - the user's own ssh
    if status == SSH_FAILED:  # perhaps for a reason that ssh cannot know
        now = next(one for one in found.status() if one.name == host)
        if now.state in ("dead", "absent"):
            raise LabError(f"{host} is {now.state}: {now.detail}", tip="lvsfab lab up")
    sys.exit(status if status >= 0 else 128 - status)


@lab.command()
@click.argument("host")
@backend_option
@common()
def logs(report: Reporter, inventory: str, backend: str | None, host: str) -> None:
    """Print HOST's console."""
    app, found = _opened(report, inventory, backend)
    path = found.log(_host(app, host))
    try:
        text = path.read_text(errors="backslashreplace")
    except OSError as error:
        raise InputError(f"no console of {host}: {error.strerror}", tip="lvsfab lab up") from None
    report.result(text.replace("\r\n", "\n").rstrip("\n"))


@lab.command()
@click.argument("host")
@click.option("--keep", is_flag=True, help="Keep its disk; else it comes back pristine.")
@backend_option
@common()
def reboot(report: Reporter, inventory: str, backend: str | None, host: str, keep: bool) -> None:
    """Power-cycle HOST."""
    app, found = _opened(report, inventory, backend)
    found.reboot(_host(app, host), keep=keep, progress=app.progress)


@lab.command(name="ssh-config")
@backend_option
@common()
def ssh_config(report: Reporter, inventory: str, backend: str | None) -> None:
    """Print an ssh_config by which your own ssh reaches every host by name."""
    _, found = _opened(report, inventory, backend)
    report.result(found.ssh_config().rstrip("\n"))
