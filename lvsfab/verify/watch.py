"""Requests at a steady rate while something else happens: who answered, what was lost, and how
long nobody answered. Pure: the client's script, and its answer as values.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from lvsfab.model import Cluster
from lvsfab.session import Record
from lvsfab.verify.directors import Director
from lvsfab.verify.marks import test_port

RECORD = "watch"
GIVEN_UP = 5  # s after which a request is lost

# Each request has a connection of its own and begins at its time, whatever became of the others.
_PERL = r"""
use strict; use Socket qw(:all); use Fcntl; use Errno;
use Time::HiRes qw(time);
my ($ip,$port,$rate,$seconds,$limit) = @ARGV;
my $six = $ip =~ /:/; my $fam = $six ? AF_INET6 : AF_INET; my $a = inet_pton($fam,$ip);
my $to = $six ? pack_sockaddr_in6($port,$a) : pack_sockaddr_in($port,$a);
my ($start,$n,%open) = (time,0);
sub over { my ($c,$name)=@_; delete $open{fileno $c->{s}}; close $c->{s};
  printf "%.3f %.3f %s\n", $c->{at}-$start, time-$start, $name }
while (1) {
  my $now=time;
  while ($n < $rate*$seconds && $now >= $start+$n/$rate) { $n++;
    socket(my $s,$fam,SOCK_STREAM,0) or next;
    fcntl($s,F_SETFL,fcntl($s,F_GETFL,0)|O_NONBLOCK);
    my $c={ s=>$s, at=>$now, got=>"" };
    $open{fileno $s}=$c;
    over($c,"-") if !connect($s,$to) && !$!{EINPROGRESS} }
  over($_,"-") for grep { $now > $_->{at}+$limit } values %open;
  last if $n >= $rate*$seconds && !%open;
  my ($r,$w)=("","");
  for (values %open) { $_->{sent} ? vec($r,fileno $_->{s},1)=1 : (vec($w,fileno $_->{s},1)=1) }
  my $next = $n < $rate*$seconds ? $start+$n/$rate-$now : 0.1;
  $next = 0.1 if $next > 0.1; $next = 0 if $next < 0;
  next if select($r,$w,undef,$next) <= 0;
  for my $c (values %open) {
    if (vec($w,fileno $c->{s},1)) {
      my $wrong = unpack("i",getsockopt($c->{s},SOL_SOCKET,SO_ERROR));
      my $ask = "GET / HTTP/1.0\r\nHost: lvsfab\r\nConnection: close\r\n\r\n";
      if ($wrong || !defined send($c->{s},$ask,0)) { over($c,"-"); next }
      $c->{sent}=1
    } elsif (vec($r,fileno $c->{s},1)) {
      my $k=sysread($c->{s},my $part,16384);
      if (defined $k ? !$k : !($!{EAGAIN}||$!{EINTR})) {
        over($c, $c->{got} =~ m{^HTTP/1\.[01] 200.*?\r\n\r\n([\w.-]+) reached}s ? $1 : "-"); next }
      $c->{got}.=$part if $k } } }
print "end\n";
"""


@dataclass(frozen=True, slots=True)
class Request:
    """When it was sent and when it was over, in seconds; who answered ("": nobody)."""

    sent: float
    over: float
    server: str = ""


@dataclass(frozen=True, slots=True)
class Watched:
    """`seconds` of requests, `rate` a second, from `client`; the directors before and after."""

    client: str
    seconds: int
    rate: int
    requests: tuple[Request, ...]
    problem: str = ""
    before: tuple[Director, ...] = ()
    after: tuple[Director, ...] = ()

    @property
    def answered(self) -> int:
        return sum(1 for request in self.requests if request.server)

    @property
    def servers(self) -> dict[str, int]:
        return dict(sorted(Counter(r.server for r in self.requests if r.server).items()))

    @property
    def longest_gap(self) -> tuple[float, float]:
        """The longest time in which no request was answered: from when on, and how long (s)."""
        moments = sorted(request.over for request in self.requests if request.server)
        moments = [0.0, *moments, max([float(self.seconds), *moments])]
        gaps = [(later - now, now) for now, later in pairwise(moments)]
        length, since = max(gaps, default=(float(self.seconds), 0.0))
        return since, length


def script(cluster: Cluster, rate: int, seconds: int) -> str:
    words = [str(cluster.asked), str(test_port(cluster)), str(rate), str(seconds), str(GIVEN_UP)]
    limit = seconds + 2 * GIVEN_UP
    return (
        f"lv_watch() {{ timeout {limit} perl -e {shlex.quote(_PERL)} {shlex.join(words)}; }}\n"
        f"rec {RECORD} lv_watch"
    )


def parse(record: Record | None) -> tuple[tuple[Request, ...], str]:
    """The requests in the order of their sending; and why they cannot be judged, if so."""
    if record is None:
        return (), "the client gave no answer"
    found = []
    for line in record.output.splitlines():
        words = line.split()
        try:
            sent, over, name = float(words[0]), float(words[1]), words[2]
        except (ValueError, IndexError):
            continue
        if not math.isfinite(sent) or not math.isfinite(over):
            continue
        found.append(Request(sent, over, "" if name == "-" else name))
    whole = record.output.rstrip().endswith("end")
    said = record.output.strip().splitlines()[-1:] or ["nothing"]
    problem = "" if whole else f"the requests ended early; the client said: {said[0][:200]}"
    return tuple(sorted(found, key=lambda request: request.sent)), problem
