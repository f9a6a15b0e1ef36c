"""The picture of a host that the end-to-end tests take: a part and the first are a whole."""

from __future__ import annotations

from tests.e2e.snapshot import completed, differences

FIRST = {
    "files": "/etc d 755 \n/etc/kept f 644 \n/etc/gone f 644 \n/usr d 755 \n/usr/tool f 755 ",
    "contents": "/etc/gone 2\n/etc/kept 1",
    "packages": "one 1.0",
    "modules": "",
}
UNTOUCHED = {"looked": "/", "files": "/etc d 755 \n/usr d 755 ", "contents": "", "modules": ""}


def sorted_first() -> dict[str, str]:
    return {name: "\n".join(sorted(text.splitlines())) for name, text in FIRST.items()}


def test_what_was_not_looked_at_is_as_it_was() -> None:
    whole = completed({"rs1": FIRST}, {"rs1": UNTOUCHED})
    assert whole == {"rs1": sorted_first()}


def test_what_is_new_changed_or_gone_where_was_looked_is_told() -> None:
    first = {"rs1": sorted_first()}
    part = {
        "looked": "/\n/etc\n/etc/new",
        "files": "/etc d 755 \n/usr d 755 \n"
        "/etc/kept f 600 \n/etc/new d 755 \n/etc/new/file f 644 ",
        "contents": "/etc/kept 9\n/etc/new/file 3",
        "packages": "one 1.0\ntwo 2.0",
        "modules": "ipip",
    }
    assert sorted(differences(first, completed(first, {"rs1": part}))) == [
        "rs1 contents: +/etc/kept 9",
        "rs1 contents: +/etc/new/file 3",
        "rs1 contents: -/etc/kept 1",
        "rs1 files: +/etc/kept f 600 ",
        "rs1 files: +/etc/new d 755 ",
        "rs1 files: +/etc/new/file f 644 ",
        "rs1 files: -/etc/gone f 644 ",
        "rs1 files: -/etc/kept f 644 ",
        "rs1 modules: +ipip",
        "rs1 packages: +two 2.0",
    ]


def test_a_whole_picture_is_left_as_it_is_and_a_host_that_is_missing_is_told() -> None:
    assert completed({}, {"rs1": FIRST}) == {"rs1": FIRST}
    assert differences({"rs1": FIRST}, {}) == ["rs1: missing"]


def test_a_section_that_is_missing_is_told() -> None:
    part = {name: text for name, text in UNTOUCHED.items() if name != "modules"}
    whole = completed({"rs1": FIRST}, {"rs1": part})
    assert differences({"rs1": sorted_first()}, whole) == ["rs1 modules: missing"]
