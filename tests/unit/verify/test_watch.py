"""A service asked steadily: what its answers say of gaps and losses."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lvsfab import report_watch
from lvsfab.model import VirtualService
from lvsfab.session import Record
from lvsfab.verify import watch
from lvsfab.verify.directors import Director
from lvsfab.verify.watch import Request, Watched
from tests.unit.verify.test_directors import ACTIVE, STANDBY, cluster

SAID = "0.000 0.020 web1\n0.050 0.075 web2\n0.100 5.100 -\n3.100 3.130 web1\nend\n"


def watched(text: str = SAID, after: tuple[Director, ...] = (STANDBY, ACTIVE)) -> Watched:
    requests, problem = watch.parse(Record("watch", 0, text))
    return Watched("client", 4, 20, requests, problem, (STANDBY, ACTIVE), after)


def test_what_was_answered_and_what_was_lost() -> None:
    found = watched()
    assert found.requests[2] == Request(0.1, 5.1)
    assert (found.answered, len(found.requests)) == (3, 4)
    assert found.servers == {"web1": 2, "web2": 1}


def test_the_longest_gap_is_between_answers_not_between_requests() -> None:
    since, gap = watched().longest_gap
    assert (since, round(gap, 3)) == (0.075, 3.055)


def test_silence_at_either_end_is_a_gap() -> None:
    assert watched("3.0 3.5 web1\nend\n").longest_gap == (0.0, 3.5)
    assert watched("0.0 0.5 web1\nend\n").longest_gap == (0.5, 3.5)
    assert watched("0.0 5.0 -\nend\n").longest_gap == (0.0, 4.0)


def test_too_long_a_gap_fails() -> None:
    assert report_watch.failures(cluster(), watched(), 4) == []
    (why,) = report_watch.failures(cluster(), watched(), 3)
    assert why == "nobody answered for 3.05 s, 3 s are allowed"
    assert report_watch.lines(cluster(), watched(), 3)[-1] == f"FAIL {why}"
    assert report_watch.to_dict(cluster(), watched(), 3)["status"] == "fail"


def test_two_active_directors_or_none_fail() -> None:
    for after in ((replace(ACTIVE, host="lb1"), ACTIVE), (STANDBY, Director("lb2"))):
        (why,) = report_watch.failures(cluster(), watched(after=after), 10)
        assert why.startswith("not exactly one director is active: lb1 ")


def test_the_directors_are_told() -> None:
    lines = report_watch.lines(cluster(), watched(after=(ACTIVE, Director("lb1"))), 10)
    assert lines[-2:] == ["directors after:  lb2 active, lb1 off", "PASS"]
    told = report_watch.to_dict(cluster(), watched(), 10)
    assert told["directors"]["after"] == {"lb1": "standby", "lb2": "active"}


@pytest.mark.parametrize("text", ["", "0.0 0.1 web1\n", "perl: not found\n"])
def test_an_answer_that_is_not_whole_is_no_proof(text: str) -> None:
    assert report_watch.failures(cluster(), watched(text), 100)
    assert watch.parse(None)[1] == "the client gave no answer"


@pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed here")
def test_requests_to_nobody_are_lost_and_told() -> None:
    local = VirtualService(ip_address("127.0.0.1"), 1)  # tcpmux: nobody listens
    script = watch.script(replace(cluster(), service=local), 20, 1)
    shell = f'rec() {{ shift; "$@"; }}\n{script}'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    requests, problem = watch.parse(Record("watch", 0, done.stdout))
    assert (len(requests), problem) == (20, "")
    assert not any(request.server for request in requests)
    assert 0.9 < requests[-1].sent < 1.0
