"""Which hosts a target means: one grammar, one parser. Pure.

    target = term { "or" term }          "," between names is "or" too
    term   = factor { "and" factor }
    factor = "not" factor | "(" target ")" | atom
    atom   = NAME-GLOB | role:ROLE | group:GROUP | re:REGEX | fact:NAME=GLOB | "quoted atom"

Errors point at the character. A target that matches no host is an error, not an empty success.
A fact that a host has not got matches nothing. Of a host that could not be asked for its facts it
may stay unknown whether it is meant, negated or not: then it is not, and the answer names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lvsfab.errors import InputError
from lvsfab.model import Host, Inventory

MAX_DEPTH = 40
Facts = Callable[[str], Mapping[str, str] | None]
Test = Callable[[Host], bool | None]  # None: it cannot be known
_TOKEN = re.compile(
    r"\s*(?:(?P<sign>[(),])|'(?P<one>[^']*)'|\"(?P<two>[^\"]*)\"|(?P<word>[^\s(),'\"][^\s(),]*))"
)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    at: int
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The hosts that a target means, and those of which it is unknown; in the inventory's order."""

    hosts: tuple[Host, ...]
    unknown: tuple[str, ...] = ()


def _any_fact(_: str) -> str:
    return ""


def check(target: str, lacking: Callable[[str], str]) -> None:
    """InputError unless `target` is one. `lacking`: "" for the name of a fact, else what is wrong
    with it.
    """
    _Parser(target, lambda _: {}, lacking).parse()


def select(target: str, inventory: Inventory, facts: Facts | None = None) -> Selection:
    """The hosts of the inventory that `target` means. No match is an InputError.

    `facts`: a host's facts by its name (None: it could not be asked), asked only where the target
    speaks of them.
    """
    test = _Parser(target, facts).parse()
    answers = {host.name: test(host) for host in inventory.hosts.values()}
    found = tuple(inventory.hosts[name] for name, meant in answers.items() if meant)
    unknown = tuple(name for name, meant in answers.items() if meant is None)
    if not found and not unknown:
        raise InputError(
            f"target `{target}` matches no host", tip=f"hosts: {', '.join(inventory.hosts)}"
        )
    return Selection(found, unknown)


def wants_facts(target: str) -> bool:
    return any(token.text.startswith("fact:") for token in _tokens(target))


def _tokens(target: str) -> list[_Token]:
    tokens, at = [], 0
    while target[at:].strip():
        match = _TOKEN.match(target, at)
        if match is None:
            raise _wrong(target, at, "a quote that does not end")
        kind = match.lastgroup or "word"
        tokens.append(_Token(match[kind], match.start(kind), kind in ("one", "two")))
        at = match.end()
    return tokens


def _wrong(target: str, at: int, what: str) -> InputError:
    return InputError(f"target: {what}\n  {target}\n  {' ' * at}^")


class _Parser:
    def __init__(
        self, target: str, facts: Facts | None, lacking: Callable[[str], str] = _any_fact
    ) -> None:
        self._target = target
        self._facts = facts
        self._lacking = lacking
        self._tokens = _tokens(target)
        self._next = 0
        self._depth = 0

    def parse(self) -> Test:
        test = self._either()
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            raise _wrong(self._target, token.at, f"`{token.text}` is not expected here")
        return test

    def _peek(self) -> str | None:
        if self._next >= len(self._tokens):
            return None
        token = self._tokens[self._next]
        return None if token.quoted else token.text

    def _either(self) -> Test:
        tests = [self._both()]
        while self._peek() in ("or", ","):
            self._next += 1
            tests.append(self._both())
        return lambda host: _any(test(host) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._peek() == "and":
            self._next += 1
            tests.append(self._one())
        return lambda host: _not(_any(_not(test(host)) for test in tests))

    def _one(self) -> Test:
        if self._next >= len(self._tokens):
            raise _wrong(self._target, len(self._target), "something is missing here")
        token = self._tokens[self._next]
        self._next += 1
        if not token.quoted and token.text in ("not", "("):
            if self._depth == MAX_DEPTH:
                raise _wrong(self._target, token.at, f"nested deeper than {MAX_DEPTH}")
            self._depth += 1
            test = self._negated() if token.text == "not" else self._bracketed(token)
            self._depth -= 1
            return test
        if not token.quoted and token.text in ("and", "or", ",", ")"):
            raise _wrong(self._target, token.at, f"`{token.text}` is not expected here")
        return self._atom(token)

    def _negated(self) -> Test:
        test = self._one()
        return lambda host: _not(test(host))

    def _bracketed(self, token: _Token) -> Test:
        test = self._either()
        if self._peek() != ")":
            raise _wrong(self._target, token.at, "this `(` is not closed")
        self._next += 1
        return test

    def _atom(self, token: _Token) -> Test:
        kind, colon, rest = token.text.partition(":")
        if not colon:
            return lambda host: fnmatchcase(host.name, token.text)
        if kind == "role":
            return lambda host: any(fnmatchcase(role, rest) for role in host.roles)
        if kind == "group":
            return lambda host: any(fnmatchcase(group, rest) for group in host.groups)
        if kind == "re":
            return self._regex(token, rest)
        if kind == "fact":
            return self._fact(token, rest)
        raise _wrong(self._target, token.at, f"`{kind}:` is none of role: group: re: fact:")

    def _regex(self, token: _Token, text: str) -> Test:
        try:
            pattern = re.compile(text)
        except re.error as error:
            at = token.at + len("re:") + (error.pos or 0)
            raise _wrong(self._target, at, f"not a regular expression: {error.msg}") from None
        except (OverflowError, RecursionError):
            at = token.at + len("re:")
            raise _wrong(self._target, at, "not a regular expression: too large") from None
        return lambda host: pattern.search(host.name) is not None

    def _fact(self, token: _Token, text: str) -> Test:
        name, equals, glob = text.partition("=")
        if not equals:
            raise _wrong(self._target, token.at, "a fact is fact:NAME=VALUE")
        facts = self._facts
        if facts is None:
            raise _wrong(self._target, token.at, "facts are not known here")
        if why := self._lacking(name):
            raise _wrong(self._target, token.at + len("fact:"), why)

        def test(host: Host) -> bool | None:
            known = facts(host.name)
            if known is None:
                return None
            # a fact with several values (addresses) has one a line: any of them counts
            values = known[name].split("\n") if known.get(name) else []
            return any(fnmatchcase(value, glob) for value in values)

        return test


def _any(answers: Iterable[bool | None]) -> bool | None:
    """True if one is, else unknown if one is."""
    found: bool | None = False
    for answer in answers:
        if answer:
            return True
        if answer is None:
            found = None
    return found


def _not(answer: bool | None) -> bool | None:
    return None if answer is None else not answer
