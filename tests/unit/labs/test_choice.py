"""Which backend a command takes, and a Docker lab's directory. The engine here is one of words."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvsfab import inventory
from lvsfab.errors import LabError
from lvsfab.labs import BACKENDS, docker_engine, docker_kernel, lab_on, open_lab, runtime
from lvsfab.labs import docker_plan as plan
from lvsfab.labs.docker import DockerLab
from lvsfab.labs.docker_engine import Engine
from lvsfab.labs.rootless import RootlessLab
from lvsfab.model import Inventory

ROOT = Path(__file__).parent.parent.parent.parent
DEFAULT = inventory.load(ROOT / "inventory/lab.yml")
ALL = "loaded ip_vs\nloaded ip_vs_rr\nloadable ipip\n"


class Api:
    """An engine that lists containers and networks, and removes them."""

    def __init__(self) -> None:
        self.there: list[dict[str, Any]] = []
        self.kinds: list[dict[str, Any]] = []
        self.closed = False

    def holds(self, home: Path, *, running: tuple[str, ...] = (), lab: str = "lab") -> None:
        for host in ("", *DEFAULT.hosts):
            labels = {plan.LAB: lab, plan.HOME: str(home), plan.HOST: host}
            state = "running" if host in running else "exited"
            self.there.append({"Id": f"{lab}.{host}", "State": state, "Labels": labels})
        labels = {plan.LAB: lab, plan.HOME: str(home)}
        self.kinds.append({"Id": lab, "Name": f"lvsfab.{lab}", "Labels": labels})

    def containers(self, *, filters: dict[str, str], **_: object) -> list[dict[str, Any]]:
        return self._filtered(self.there, filters)

    def networks(self, *, filters: dict[str, str]) -> list[dict[str, Any]]:
        return self._filtered(self.kinds, filters)

    def _filtered(
        self, listed: list[dict[str, Any]], filters: dict[str, str]
    ) -> list[dict[str, Any]]:
        name, _, value = filters["label"].partition("=")
        return [one for one in listed if one["Labels"].get(name) == value]

    def remove_container(self, container: str, **_: object) -> None:
        self.there = [one for one in self.there if one["Id"] != container]

    def remove_network(self, network: str) -> None:
        self.kinds = [one for one in self.kinds if one["Id"] != network]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the user's labs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return runtime.base_directory()


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, api: Api) -> Callable[..., None]:
    """What there is to find: an engine (likely, answering, here), a kernel."""

    def set_up(
        *, likely: bool = True, here: bool = True, said: str = "", answering: bool = True
    ) -> None:
        name = os.uname().nodename if here else "far"
        engine = Engine(api, "27.1", os.uname().release, "http+docker://", name=name)

        def connect(**_: object) -> Engine:
            if not answering:
                raise LabError("no Docker engine answers")
            return engine

        monkeypatch.setattr(docker_engine, "likely", lambda: likely)
        monkeypatch.setattr(docker_engine, "connect", connect)
        monkeypatch.setattr("lvsfab.labs.docker.connect", connect)
        monkeypatch.setattr(docker_kernel, "look_here", lambda: docker_kernel.Found(said))

    return set_up


def chosen(found: Inventory = DEFAULT) -> str:
    lab = open_lab(found)
    assert isinstance(lab, RootlessLab | DockerLab)
    return lab.backend


@pytest.mark.parametrize(
    ("there", "backend"),
    [
        ({"likely": False, "said": ALL}, "rootless"),
        ({"answering": False, "said": ALL}, "rootless"),
        ({"said": ALL}, "docker"),
        ({"said": "loaded ip_vs\nloadable ipip\n"}, "rootless"),  # no scheduler
        ({"said": ""}, "rootless"),
        ({"said": ALL, "here": False}, "rootless"),
    ],
)
@pytest.mark.usefixtures("base")
def test_a_new_lab(answers: Callable[..., None], there: dict[str, Any], backend: str) -> None:
    answers(**there)
    assert chosen() == backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("base")
def test_who_names_a_backend_gets_it(answers: Callable[..., None], backend: str) -> None:
    answers(said=ALL)
    assert DEFAULT.lab is not None
    assert chosen(replace(DEFAULT, lab=replace(DEFAULT.lab, backend=backend))) == backend


def kept(base: Path, name: str, *, spec: bool = True, alive: bool = False) -> None:
    (base / name).mkdir(mode=0o700)
    if spec:
        (base / name / "spec").write_text("{}")
    if alive:
        who = runtime.identity(os.getpid())
        assert who is not None
        (base / name / "keeper").write_text(who.text())


@pytest.mark.parametrize(
    ("directories", "backend"),
    [
        ({"lab": {"alive": True}}, "rootless"),
        ({"lab": {}}, "rootless"),  # its keeper was killed
        ({"lab.docker": {}}, "docker"),
        ({"lab.docker": {}, "lab": {}}, "docker"),
        ({"lab.docker": {}, "lab": {"alive": True}}, "rootless"),
        ({"lab.docker": {"spec": False}}, "rootless"),  # an `up` that failed
        ({"lab.docker": {"spec": False}, "lab": {}}, "rootless"),
    ],
)
def test_a_lab_that_is_up_is_found(
    base: Path, answers: Callable[..., None], directories: dict[str, Any], backend: str
) -> None:
    answers(likely=False)
    for name, what in directories.items():
        kept(base, name, **what)
    assert chosen() == backend


@pytest.mark.parametrize("again", [True, False])
def test_a_lab_of_which_only_containers_are_left(
    tmp_path: Path,
    answers: Callable[..., None],
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    again: bool,
) -> None:
    """This machine was restarted, or the user's login ended: the runtime directory is new, or not
    there at all (then labs are kept in the last of the places).
    """
    login, last = tmp_path / "login", tmp_path / "last"
    monkeypatch.setattr(runtime, "places", lambda: (login / "lvsfab", last))
    if again:
        login.mkdir(mode=0o700)
    answers(said="", here=False)
    api.holds(login / "lvsfab" / "lab.docker")
    api.holds(Path("/home/other/lab.docker"), lab="theirs")
    assert chosen() == "docker"
    assert api.closed
    assert last.exists() != again
    said: list[str] = []
    open_lab(DEFAULT).down(said.append)
    assert said == ["lab lab: down, nothing is left of it"]
    assert {one["Labels"][plan.LAB] for one in (*api.there, *api.kinds)} == {"theirs"}
    assert chosen() == "rootless"


def test_a_lab_that_stands_elsewhere_is_not_taken(
    base: Path, answers: Callable[..., None], api: Api
) -> None:
    answers(said="")
    api.holds(Path("/home/other/lab.docker"))
    assert chosen() == "rootless"
    lab_on("docker", DEFAULT).down(lambda _: None)
    assert len(api.there) == 7
    assert not base.exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_lab_of_that_name_is_refused(
    base: Path, answers: Callable[..., None], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    answers(said="")
    other, kind = {
        "rootless": ("docker", DockerLab),
        "docker": ("rootless", RootlessLab),
    }[backend]
    kept(base, "lab" if other == "rootless" else "lab.docker")
    monkeypatch.setattr(kind, "running", lambda _: True)
    with pytest.raises(
        LabError, match=rf"is up already, on the other backend \({other}\)"
    ) as found:
        lab_on(backend, DEFAULT).up(lambda _: None)
    assert f"lvsfab lab down --backend {other}" in found.value.tip


def test_an_engine_that_is_gone_keeps_nobody_from_the_other_backend(
    base: Path, answers: Callable[..., None]
) -> None:
    answers(answering=False)
    kept(base, "lab.docker")
    RootlessLab(DEFAULT)._check_alone()


def test_an_up_that_fails_leaves_no_directory(
    base: Path, answers: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(said="")

    def fails(*_: object) -> None:
        raise LabError("no room")

    monkeypatch.setattr(DockerLab, "_prepare", fails)
    monkeypatch.setattr("lvsfab.labs.docker_objects.Objects.check", lambda *_: None)
    with pytest.raises(LabError, match="no room"):
        lab_on("docker", DEFAULT).up(lambda _: None)
    assert not (base / "lab.docker").exists()


def test_down_waits_for_an_up_that_is_at_work(
    base: Path, answers: Callable[..., None], api: Api
) -> None:
    answers(said="")
    lab = lab_on("docker", DEFAULT)
    kept(base, "lab.docker")
    with runtime.locked(base / "lab.docker"):
        taking = threading.Thread(target=lab.down, args=[lambda _: None])
        taking.start()
        api.holds(base / "lab.docker")
        taking.join(0.5)
        assert taking.is_alive()
        assert len(api.there) == 7
    taking.join(10)
    assert not taking.is_alive()
    assert api.there == api.kinds == []
    assert not base.exists()


def test_a_lab_is_whole_with_all_hosts_and_the_gate_if_it_has_one(
    base: Path, answers: Callable[..., None], api: Api
) -> None:
    answers(said="")
    kept(base, "lab.docker")
    lab = lab_on("docker", DEFAULT)
    spec = base / "lab.docker" / "spec"
    for gate, running, whole in (
        (False, (*DEFAULT.hosts,), True),
        (True, ("", *DEFAULT.hosts), True),
        (True, (*DEFAULT.hosts,), False),
        (True, ("", *list(DEFAULT.hosts)[1:]), False),
        (False, ("",), False),
    ):
        spec.write_text(f'{{"gate": {str(gate).lower()}}}')
        api.there = []
        api.holds(base / "lab.docker", running=running)
        assert lab.whole() is whole
        assert lab.running() is (running != ("",))
