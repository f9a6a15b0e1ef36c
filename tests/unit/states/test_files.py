"""file, nft, arptables, package, service, testpage."""

from __future__ import annotations

import base64

import pytest

from lvsfab import journal
from lvsfab.errors import InputError
from lvsfab.states.arptables import ArptablesRule
from lvsfab.states.base import UnsupportedError, changes
from lvsfab.states.file import MAX_BYTES, File
from lvsfab.states.nft import NftTable
from lvsfab.states.package import Package
from lvsfab.states.service import Service
from lvsfab.states.testpage import Testpage
from lvsfab.states.testpage_script import TEXT
from tests.unit.states.state_helpers import journalled, said

PATH = "/etc/lvs/a.conf"


def stat(content: bytes, mode: str = "640", owner: str = "root daemon 0 1") -> str:
    return f"stat {mode} {owner} {len(content)}\n{base64.encodebytes(content).decode()}"


def test_file_absent_remembers_missing_directories() -> None:
    have = File.parse(PATH, "absent\nmissing /etc/lvs\n")
    assert have == File(path=PATH, present=False, missing=("/etc/lvs",))
    want = File(path=PATH, content="a\n", mode="0644")
    assert said(have, want, File, PATH) == ["put_file /etc/lvs/a.conf 0644 root root text 'a\n'"]
    now = File.parse(PATH, stat(b"a\n"))
    assert said(now, journalled(have), File, PATH) == [f"drop_file {PATH} /etc/lvs"]


def test_file_correct_and_drifted() -> None:
    have = File.parse(PATH, stat(b"a\n"))
    assert changes(File(path=PATH, content="a\n"), have) == ()
    assert changes(File(path=PATH, content="a\n", mode="640"), have) == ()
    found = changes(File(path=PATH, content="b\n", mode="0600", group="root"), have)
    assert [c.field for c in found] == ["content", "mode", "group"]
    assert said(have, File(path=PATH, content="b"), File, PATH) == [
        f"put_file {PATH} 0640 root daemon text b"
    ]


def test_file_binary_content_is_restored() -> None:
    before = File.parse(PATH, stat(b"\xff\x00\n", "4755", "UNKNOWN UNKNOWN 1234 99"))
    assert before is not None
    now = File.parse(PATH, stat(b"a"))
    assert said(now, journalled(before), File, PATH) == [
        f"put_file {PATH} 4755 1234 99 base64 /wAK"
    ]


def test_file_in_a_journal_may_lack_what_every_host_says() -> None:
    have, before = (File(path=PATH, content="a", mode=mode) for mode in (None, "0644"))
    assert [c.field for c in changes(before, have)] == ["mode"]


def test_file_of_short_plain_text_is_told_as_it_is() -> None:
    for content in ("", "\n", "a", "a\n\n", "text\nstat\n"):
        have = File.parse(PATH, f"stat 640 root daemon 0 1 {len(content)}\ntext\n{content}")
        assert have == File.parse(PATH, stat(content.encode()))


def test_file_that_cannot_be_kept_is_not_touched() -> None:
    for text in ("other\n", f"stat 644 root root 0 0 {MAX_BYTES + 1}\n", "stat: denied\n"):
        with pytest.raises(UnsupportedError):
            File.parse(PATH, text)


def test_file_input() -> None:
    for path in ("a", "/a/../b", "/a b", "/a//b", "/", "/a/./b", "/a\n", "/$(id)"):
        with pytest.raises(InputError):
            File(path=path, content="")
    with pytest.raises(InputError):
        File(path=PATH, content="", mode="rw")
    with pytest.raises(InputError):
        File(path=PATH, content="", owner="a:b")


CONTENT = "chain input {\n\ttype filter hook input priority 0;\n}"
LISTING = "table arp t {\n\tchain input {\n\t\ttype filter hook input priority filter;\n\t}\n}\n"


def nft_output(listing: str, stamp: str = "") -> str:
    return f"{listing}lvsfab-listing\n{stamp}"


def stamp(content: str, listing: str) -> str:
    return base64.b64encode(content.encode()).decode() + "\n" + listing


def test_nft_absent_correct_drifted() -> None:
    want = NftTable(family="arp", name="t", content=CONTENT)
    assert NftTable.parse("arp/t", "") is None
    (line,) = said(None, want, NftTable, "arp/t")
    assert line.startswith("nft_put arp t 'chain input {")
    have = NftTable.parse("arp/t", nft_output(LISTING, stamp(CONTENT, LISTING)))
    assert changes(want, have) == ()
    edited = LISTING.replace("filter;", "raw;")
    drifted = NftTable.parse("arp/t", nft_output(edited, stamp(CONTENT, LISTING)))
    (change,) = changes(want, drifted)
    assert "raw" in change.have
    assert said(have, None, NftTable, "arp/t") == ["nft_drop arp t"]


def test_nft_undo_restores_a_foreign_table() -> None:
    before = NftTable.parse("arp/t", nft_output(LISTING))
    assert before is not None
    now = NftTable.parse("arp/t", nft_output("table arp t {\n}\n", stamp("", "table arp t {\n}\n")))
    put, forget = said(now, journalled(before), NftTable, "arp/t")
    assert "priority filter;" in put
    assert forget == "nft_forget arp t"
    assert changes(before, NftTable.parse("arp/t", nft_output(LISTING))) == ()


def test_nft_content_cannot_leave_its_braces() -> None:
    for content in ("}", "} table ip x {", 'a "', "{", "\x1b", 'include "/etc/shadow"'):
        with pytest.raises(InputError):
            NftTable(family="ip", name="t", content=content)
    NftTable(family="ip", name="t", content='comment "}" # }\n')


def test_arptables() -> None:
    want = ArptablesRule(chain="INPUT", destination="10.1.1.100", device="eth0", target="DROP")
    key = "INPUT,-d,10.1.1.100,-i,eth0,-j,DROP"
    assert want.key == key
    assert said(None, want, ArptablesRule, key) == [
        "arptables_tool -A INPUT -d 10.1.1.100 -i eth0 -j DROP"
    ]
    have = ArptablesRule.parse(key, "-j DROP -i eth0 -d 10.1.1.100 \n")
    assert changes(want, have) == ()
    assert said(have, None, ArptablesRule, key) == [
        "arptables_tool -D INPUT -d 10.1.1.100 -i eth0 -j DROP"
    ]
    for other in ("", "-j DROP -i eth0 -d 10.1.1.10 \n", "-j DROP -d 10.1.1.100 \n"):
        assert ArptablesRule.parse(key, other) is None
    mangle = ArptablesRule(
        chain="OUTPUT", source="10.1.1.100", target="mangle", mangle_source="10.1.1.1"
    )
    line = "-j mangle -s 10.1.1.100 --mangle-ip-s 10.1.1.1 \n"
    assert ArptablesRule.parse(mangle.key, line) == mangle
    # as arptables-nft prints it
    line = "-j mangle -o eth0 -s 10.1.1.100 --mangle-ip-s 10.1.1.1\n"
    assert ArptablesRule.parse(
        "OUTPUT,-s,10.1.1.100,-o,eth0,-j,mangle,--mangle-ip-s,10.1.1.1", line
    )
    with pytest.raises(InputError):
        ArptablesRule(chain="INPUT", source="fd00::1", target="DROP")


def test_package() -> None:
    want = Package(name="httpd", names={"apt": "apache2-bin,libaprutil1"})
    assert want.key == "httpd;apt=apache2-bin,libaprutil1"
    assert changes(want, Package.parse(want.key, "family apt\n")) == ()
    before = Package.parse(
        want.key, "family apt\nmissing apache2-bin\nunneeded old\nunneeded lib:i386\n"
    )
    assert before is not None
    assert said(before, want, Package, want.key) == ["package_install apt apache2-bin"]
    now = Package.parse(want.key, "family apt\n")
    assert said(now, journalled(before), Package, want.key) == [
        "package_remove apt 'old lib:i386' apache2-bin"
    ]
    assert said(now, journalled(now), Package, want.key) == []  # type: ignore[type-var]
    with pytest.raises(UnsupportedError):
        Package.parse("httpd", "none\n")
    for name in ("a b", "-y", "a;b", "$(id)", ""):
        with pytest.raises(InputError):
            Package(name=name)


def test_service() -> None:
    want = Service(name="keepalived", running=True)
    have = Service.parse("keepalived", "running no\nenabled yes\n")
    assert have is not None
    assert said(have, want, Service, "keepalived") == ["service_do keepalived start"]
    now = Service(name="keepalived", running=True, enabled=False)
    assert said(now, journalled(have), Service, "keepalived") == [
        "service_do keepalived enable",
        "service_do keepalived stop",
    ]
    assert changes(want, now) == ()
    assert Service.parse("x", "") is None
    with pytest.raises(InputError):
        Service(name="../x", running=True)


STATE = f"exe /usr/sbin/apache2\nport 80\nprotocol tcp\nname rs1\nbind \ntext {TEXT}\nsum 1-2\n"


def test_testpage() -> None:
    want = Testpage(port=80, name="rs1")
    start = f"testpage_start 80 tcp rs1 '' {TEXT}"
    assert said(None, want, Testpage, "80") == [start]
    assert changes(want, Testpage.parse("80", STATE + "running yes\n")) == ()
    for output, field in (
        (STATE + "running no\n", "running"),
        (STATE + "text edited\nrunning yes\n", "text"),
        (STATE.replace("rs1", "rs2") + "running yes\n", "name"),
    ):
        have = Testpage.parse("80", output)
        assert [c.field for c in changes(want, have)] == [field]
        assert said(have, want, Testpage, "80") == [start]
        assert said(have, None, Testpage, "80") == ["testpage_stop 80"]
    half = Testpage.parse("80", "text unfinished\n")
    assert half is not None
    assert said(half, None, Testpage, "80") == ["testpage_stop 80"]


def test_testpage_bind_counts_for_udp_alone() -> None:
    have = Testpage.parse("80", STATE + "running yes\n")
    assert changes(Testpage(port=80, name="rs1", bind="10.1.1.100"), have) == ()
    udp_state = STATE.replace("tcp", "udp").replace("bind ", "bind 10.1.1.9")
    udp = Testpage.parse("80", udp_state + "running yes\n")
    want = Testpage(port=80, protocol="udp", name="rs1", bind="10.1.1.100")
    assert [c.field for c in changes(want, udp)] == ["bind"]
    with pytest.raises(InputError):
        Testpage(port=80, protocol="udp", name="rs1")
    with pytest.raises(InputError):
        Testpage(port=80, name='<!--#exec cmd="id" -->')


@pytest.mark.parametrize("break_", ["\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\r"])
def test_a_file_in_a_journal_may_have_any_line_break(break_: str) -> None:
    """A file of somebody else's, which `up --adopt` replaced, is one entry and comes back."""
    was = File(path="/etc/a", content=f"one{break_}two\n", mode="0644", owner="root", group="root")
    entry = journal.Entry(File, was.key, was)
    assert journal.parse(journal.text([entry])) == (entry,)
