"""The root tree that all lab hosts share: Debian, with what docker/packages.txt names.

One builder for root and for ordinary users: mmdebstrap makes the system in whatever way this
machine allows and hands out a tar, and its extraction belongs to whoever builds. The tree is
served read-only (hostfs) to kernels that run as that user, so all of it is readable to its owner,
and no program in it is setuid: in a user's cache that would be setuid to the user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from lvsfab.errors import LabError
from lvsfab.labs import cache, tools
from lvsfab.labs.base import Progress
from lvsfab.labs.data import text
from lvsfab.labs.debian import IMAGE_SUITE, KEYRING, mirror

KIND = "image"
_FORM = "3"  # raise it when this file makes another tree of the same packages
_BUILD_TIME = 1200.0  # seconds; 30 s on two cores with a near mirror

# Not in the tree: what only people read, what apt fetched, what must differ from lab to lab.
_LEFT_OUT = (
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./run/*",
    "./tmp/*",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./var/cache/apt/*",
    "./var/cache/debconf/*-old",
    "./var/lib/apt/lists/*",
    "./var/log/*.log",
    "./etc/apt/apt.conf.d/99mmdebstrap",
    "./etc/ssh/ssh_host_*",
    "./etc/machine-id",
    "./etc/hostname",
    "./etc/resolv.conf",
    "./usr/sbin/policy-rc.d",
)
# Mount points of the running lab, and directories that daemons want although nothing is in them.
_EMPTY = ("lvsfab", "usr/lib/modules", "run", "tmp", "dev", "proc", "sys", "var/lib/apt/lists")


def packages() -> tuple[str, ...]:
    """The names in docker/packages.txt."""
    lines = (line.partition("#")[0].strip() for line in text("packages.txt").splitlines())
    return tuple(line for line in lines if line)


def image_key(*more: str) -> str:
    return cache.key(_FORM, IMAGE_SUITE, os.uname().machine, *packages(), *more)


def find_image(*more: str) -> Path | None:
    """The root tree of the present package list, and `more` packages, if it is in the cache."""
    entry = cache.find(KIND, image_key(*more))
    return entry / "tree" if entry else None


def build_image(progress: Progress, *more: str) -> Path:
    """The root tree, with `more` packages; built if it is not in the cache."""

    def make(space: Path) -> Mapping[str, str]:
        return _make(space, (*packages(), *more), progress)

    return cache.build(KIND, image_key(*more), make, progress) / "tree"


def ensure_tools(progress: Progress) -> None:
    """See that what builds images is there; as root install it, else LabError with the command."""
    needs = {str(KEYRING): "debian-archive-keyring"}
    if tools.which("mmdebstrap") is None and tools.which("debootstrap") and os.geteuid() == 0:
        return tools.ensure(needs, progress)
    needs["mmdebstrap"] = "mmdebstrap"
    if os.geteuid() != 0:
        needs["newuidmap"] = "uidmap"
    return tools.ensure(needs, progress)


def _make(space: Path, wanted: tuple[str, ...], progress: Progress) -> Mapping[str, str]:
    ensure_tools(progress)
    uri = mirror()
    progress(f"building the hosts' system: Debian {IMAGE_SUITE} from {uri}")
    tar = space / "image.tar"
    if tools.which("mmdebstrap"):
        _mmdebstrap(wanted, tar, uri, progress)
    else:
        _debootstrap(wanted, space, tar, uri, progress)
    progress("unpacking the hosts' system")
    tree = space / "tree"
    tree.mkdir()
    unpack(tar, tree)
    tar.unlink()
    _check(tree)
    return {
        "suite": IMAGE_SUITE,
        "mirror": uri,
        "packages": " ".join(wanted),
        "debian": (tree / "etc/debian_version").read_text().strip(),
    }


def _mmdebstrap(wanted: tuple[str, ...], tar: Path, uri: str, progress: Progress) -> None:
    """The usual way. Its apt has a configuration of its own: it is given the machine's way out."""
    dump = tools.run(["apt-config", "dump", "Acquire"], timeout=60).splitlines()
    options = [f"--aptopt={line}" for line in dump if carries_over(line)]
    for name in ("auth.conf", "auth.conf.d"):
        if os.access(f"/etc/apt/{name}", os.R_OK):
            kind = "netrcparts" if name.endswith(".d") else "netrc"
            options.append(f'--aptopt=Dir::Etc::{kind} "/etc/apt/{name}"')
    with tar.open("wb") as out:
        tools.run(
            [
                "mmdebstrap",
                "--mode=auto",
                "--variant=minbase",
                "--format=tar",
                f"--keyring={KEYRING}",
                f"--include={','.join(wanted)}",
                *options,
                IMAGE_SUITE,
                "-",
                uri,
            ],
            timeout=_BUILD_TIME,
            log=tools.log_file(KIND),
            stdout=out,
            line=_narrator(progress),
            cwd=Path("/"),
            tip="an ordinary user needs user namespaces with subordinate ids (/etc/subuid) or "
            "fakechroot and fakeroot; root needs neither. LVSFAB_MIRROR=URI names another mirror",
        )


def carries_over(line: str) -> bool:
    """Whether a line of `apt-config dump Acquire` says how this machine reaches its mirrors: a
    value that is set, and not about which indexes are fetched.
    """
    name, _, value = line.partition(" ")
    return "::" in name and value not in ('"";', "") and "IndexTargets" not in name


def _narrator(progress: Progress) -> tools.Line:
    """The milestones of mmdebstrap, in our words."""
    steps = {
        "I: downloading packages with apt": "downloading the essential packages",
        "I: extracting archives": "unpacking the essential packages",
        "I: installing remaining packages inside the chroot": "installing the lab's packages",
        "I: creating tarball": "packing the hosts' system",
    }

    def line(said: str) -> None:
        for start, ours in steps.items():
            if said.startswith(start):
                progress(ours)

    return line


def _debootstrap(
    wanted: tuple[str, ...], space: Path, tar: Path, uri: str, progress: Progress
) -> None:
    """The fallback where mmdebstrap is not to be had; root alone."""
    root = space / "root"
    progress("installing the lab's packages (debootstrap)")
    tools.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--keyring={KEYRING}",
            f"--include={','.join(wanted)}",
            IMAGE_SUITE,
            str(root),
            uri,
        ],
        timeout=_BUILD_TIME,
        log=tools.log_file(KIND),
    )
    tools.run(["tar", "-C", str(root), "-cf", str(tar), "."], timeout=300)
    cache.remove(root)


def unpack(tar: Path, tree: Path) -> None:
    """The tar's tree, owned by the caller, readable to him, without setuid, without leftovers. Its
    services wait to be wanted, all but ssh.
    """
    out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    argv = ["tar", "-C", str(tree), "--no-same-owner", "--delay-directory-restore", "-p"]
    tools.run([*argv, "--anchored", *out, "-xf", str(tar)], timeout=600)
    tree.chmod(0o755)
    for name in _EMPTY:
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            path = Path(directory) / name
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                path.chmod(readable(mode))
    for link in tree.glob("etc/rc[2-5].d/S[0-9][0-9]*"):
        if not link.name.endswith("ssh"):
            link.rename(link.with_name(f"K01{link.name[3:]}"))
    for wants in ("multi-user", "timers"):
        for link in tree.glob(f"etc/systemd/system/{wants}.target.wants/*"):
            if link.name not in ("ssh.service", "remote-fs.target"):
                link.unlink()


def readable(mode: int) -> int:
    """A mode that lets the owner read it (enter and change it, if a directory), not setuid."""
    need = 0o700 if stat.S_ISDIR(mode) else 0o400
    return (stat.S_IMODE(mode) | need) & ~(stat.S_ISUID | stat.S_ISGID)


def _check(tree: Path) -> None:
    """What the lab starts must be there: a package that lost a program fails here, with its name,
    rather than in a host that does not boot.
    """
    for program in ("usr/sbin/sshd", "usr/sbin/ipvsadm", "usr/sbin/modprobe", "usr/bin/ip"):
        if not (tree / program).exists():
            raise LabError(f"the hosts' system came out without /{program}")
    if any((tree / "etc/ssh").glob("ssh_host_*")):
        raise LabError("the hosts' system came out with an SSH host key of its own")
