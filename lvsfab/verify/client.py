"""The client's part: requests in one batch, sizes, probes. Pure: values in, script text out.

Every outcome passes through one awk program that keeps each *kind* of outcome once, and for each
request its kind and the client's port, in order: 100,000 requests come back as some 800 kB. What a
server answers cannot pass for a line of ours: those carry a token that is new in each run.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lvsfab.model import Cluster, IPAddress, Protocol
from lvsfab.verify.marks import MarkPlan, test_port

CONNECT_TIMEOUT = 4  # s; a lost SYN is sent again after 1 s and 3 s: a loss or two is no failure
REQUEST_TIMEOUT = 8  # s
FAILED_TIME = 10  # s spent on failing requests before the rest is not sent
STALL = 8  # s without a byte: a transfer that hangs, however slow the machine
TRANSFER_TIMEOUT = 60  # s for 1 MiB
MAX_KINDS = 200
MIB = 1 << 20
# Around a path MTU of 1500: with 20 bytes of outer header, 1480 no longer fit into one packet.
SIZES = (1380, 1440, 1480, 1500)

# Lines: the pid first, then per request what was answered and `TOKEN code exit connects port s`.
_AGGREGATE = r"""
BEGIN { kinds=0; n=0; chunks=0; stopped=0 }
NR==1 { if ($1=="pid" && $2 ~ /^[0-9]+$/) pid=$2; next }
$1==T && NF==6 {
  k=$2 " " $3 " " $4 "\t" body; body=""
  if (!(k in id)) { if (kinds<MAXK) { id[k]=kinds; text[kinds++]=k } else k=text[kinds-1] }
  i=id[k]; count[i]++; sum[i]+=$6; c=c " " i; p=p " " $5
  if (++n%200==0) { seq[++chunks]=c; from[chunks]=p; c=""; p="" }
  if ($3!=0 || $2<200 || $2>299) {
    bad++; lost+=$6
    if (lost>LIMIT && !stopped) { stopped=1; if (pid) system("kill " pid " 2>/dev/null") }
  }
  next
}
length(body)<300 { body=body substr($0,1,300) }
END {
  print "sent " n " " stopped
  for (j=1;j<=chunks;j++) print "order" seq[j]
  if (c!="") print "order" c
  for (j=1;j<=chunks;j++) print "from" from[j]
  if (p!="") print "from" p
  for (i=0;i<kinds;i++) printf "kind %d %d %.6f %s\n", i, count[i], sum[i], text[i]
  print "end"
  exit bad ? 9 : 0
}
"""

# One socket for each request, so that each is a new connection to IPVS. `hold` opens all of them
# first and asks afterwards: schedulers that count connections see them all at once.
_PERL = r"""
use strict; use Socket qw(:all); use Fcntl; use Errno;
my ($token,$mode,$ip,$port,$n,$limit,$first,$pause,@source) = @ARGV;
$| = 1; print "pid $$\n";
my $now = eval { require Time::HiRes; \&Time::HiRes::time } || sub { time };
my $six = $ip =~ /:/; my $udp = $mode eq "udp";
my $fam = $six ? AF_INET6 : AF_INET;
sub at { my ($a,$p)=@_; my $b=inet_pton($fam,$a);
  $six ? pack_sockaddr_in6($p,$b) : pack_sockaddr_in($p,$b) }
my @to = map { at($ip,$_) } split /,/, $port;
sub ready { my ($s,$write,$until)=@_; my $v=""; vec($v,fileno($s),1)=1;
  while (1) { my $left=$until-$now->(); $left=0 if $left<0; my ($r,$w)=($v,$v);
    my $k = $write ? select(undef,$w,undef,$left) : select($r,undef,undef,$left);
    return $k>0 if $k>=0 || !$!{EINTR}; } }
my $spread = 32768 + (int($now->())*89) % 24000;  # ports differ from those of the last minutes
sub opened { my ($k)=@_; select(undef,undef,undef,$pause) if $pause; my $start=$now->();
  socket(my $s,$fam,$udp?SOCK_DGRAM:SOCK_STREAM,0) or return { error=>2, start=>$start, port=>0 };
  fcntl($s,F_SETFL,fcntl($s,F_GETFL,0)|O_NONBLOCK);
  my $any = $six ? "::" : "0.0.0.0";
  if ($first) { for my $t (0..7) { last if bind($s,at($any,$first+$t)); } }
  elsif ($udp || @source) { $any = $source[($k-1) % @source] if @source; for (1..50) {
    $spread=32768 if ++$spread>60999; last if bind($s,at($any,$spread)); } }
  my $c = { s=>$s, start=>$start, error=>0 };
  # each client address comes to each port
  if (!connect($s,$to[int(($k-1)/(@source||1)) % @to])) {
    if ($!{EINPROGRESS}) {
      if (!ready($s,1,$start+$limit)) { $c->{error}=28 }
      elsif (unpack("i",getsockopt($s,SOL_SOCKET,SO_ERROR))) { $c->{error}=7 }
    } else { $c->{error}=7 } }
  my $me=getsockname($s);
  $c->{port} = $me ? ($six ? (unpack_sockaddr_in6($me))[0] : (unpack_sockaddr_in($me))[0]) : 0;
  $c->{start} = $now->() - $start;
  return $c; }
sub asked { my ($c,$k)=@_; return if $c->{error};
  $c->{sent}=$now->();
  my $what = $udp ? "request $k\n"
    : "GET /?$k HTTP/1.0\r\nHost: lvsfab\r\nConnection: close\r\n\r\n";
  $c->{error}=7 unless defined send($c->{s},$what,0); }
sub heard { my ($c)=@_; my ($code,$body,$got)=("000","",""); my $time=$c->{start};
  if (!$c->{error}) { my $until=$now->()+$limit;
    while (length($got)<65536) {
      if (!ready($c->{s},0,$until)) { $c->{error}=28; last }
      my $r=sysread($c->{s},my $part,16384);
      if (!defined $r) { next if $!{EAGAIN}||$!{EINTR}; $c->{error}=$udp?7:56; last }
      last if !$r; $got.=$part; last if $udp; }
    $time += $now->()-$c->{sent};
    if (!$c->{error}) {
      if ($udp) { ($code,$body)=("200",$got) }
      elsif ($got =~ m{^HTTP/1\.[01] (\d\d\d).*?\r\n\r\n(.*)}s) { ($code,$body)=($1,$2) }
      else { $c->{error}=52 } } }
  close $c->{s} if $c->{s};
  $body =~ tr/\n\r\t/ /; $body = substr($body,0,300);
  printf "%s\n%s %s %d 1 %d %.6f\n", $body, $token, $code, $c->{error}, $c->{port}, $time; }
if ($mode eq "hold") {
  my (@held,$lost);
  for my $k (1..$n) { my $c=opened($k); push @held,$c;
    $lost+=$c->{start} if $c->{error}; last if $lost && $lost>8 }
  my $k=0; asked($_,++$k) for @held;
  heard($_) for @held;
} else { for my $k (1..$n) { my $c=opened($k); asked($c,$k); heard($c) } }
"""


def _limit(requests: int, rate: int | None) -> int:
    """Seconds for so many requests, of which `rate` begin in a second at most."""
    return 60 + requests // min(10, rate or 10)


def batch_timeout(requests: int, transfers: int, probes: int, rate: int | None = None) -> int:
    """Seconds within which the client's script has ended, whatever happens."""
    return (
        _limit(requests, rate)
        + 2 * TRANSFER_TIMEOUT * bool(transfers) * 6
        + probes * (REQUEST_TIMEOUT + 1)
    )


def batch_script(
    cluster: Cluster,
    requests: int,
    token: str,
    *,
    held: bool,
    transfers: int,
    marks: Sequence[MarkPlan] = (),
    rate: int | None = None,
    sources: Sequence[IPAddress] = (),
) -> str:
    """Phase 2. `transfers`: sized requests of each kind (one per real server; 0: none);
    `held`: all connections are open at once; `marks`: servers to be asked one by one; `rate`:
    requests a second, at most; `sources`: addresses that take turns in sending. No `requests`:
    the probes alone.
    """
    vip, port = cluster.asked, test_port(cluster)
    base = f"http://[{vip}]:{port}" if vip.version == 6 else f"http://{vip}:{port}"
    udp = cluster.service.protocol is Protocol.UDP
    ports = ",".join(map(str, (port, *cluster.service.ports)))
    if held or udp or sources or cluster.service.ports:
        mode = "udp" if udp else "hold" if held else "get"
        pause = f"{1 / rate:.4f}" if rate else "0"
        words = (mode, vip, ports, requests, CONNECT_TIMEOUT, 0, pause, *sources)
        send = f"lv_perl {' '.join(map(str, words))}"
    else:
        send = f"lv_curl {f'--rate {rate}/s ' if rate else ''}'{base}/?[1-{requests}]'"
    lines = [_functions(token, _limit(requests, rate))]
    if requests:
        lines.append(f"rec batch lv_batch {send}")
    if transfers and not udp:
        lines.append(_transfers(base, transfers))
    lines += [_probe(mark, base, vip, port, udp=udp) for mark in marks]
    return "\n".join(lines)


def _functions(token: str, limit: int) -> str:
    fields = "%{http_code} %{exitcode} %{num_connects} %{local_port} %{time_total}"
    return f"""
lv_awk=awk; case $(awk -W version </dev/null 2>&1) in mawk*) lv_awk="awk -W interactive" ;; esac
lv_curl() {{
  sh -c 'echo "pid $$"; exec timeout {limit} curl "$@"' curl -q -s --noproxy '*' \\
    --connect-timeout {CONNECT_TIMEOUT} -m {REQUEST_TIMEOUT} -H 'Connection: close' \\
    -w '\\n{token} {fields}\\n' \\
    "$@"
}}
lv_perl() {{ timeout {limit} perl -e {shlex.quote(_PERL)} {token} "$@"; }}
lv_batch() {{
  has awk || {{ echo "awk is not installed"; return 4; }}
  case $1 in
  lv_perl) has perl || {{ echo "perl is not installed"; return 4; }} ;;
  *) has curl || {{ echo "curl is not installed"; return 4; }} ;;
  esac
  case $2 in --rate)
    curl --help all | grep -q -e --rate || {{ echo "--rate needs curl 7.84"; return 4; }} ;;
  esac
  lv_start=$(date +%s.%N)
  "$@" 2>/dev/null | $lv_awk -v T={token} -v LIMIT={FAILED_TIME} -v MAXK={MAX_KINDS} \\
    {shlex.quote(_AGGREGATE)}
  lv_bad=$?
  echo "time $lv_start $(date +%s.%N)"
}}
"""


def _transfers(base: str, each: int) -> str:
    """1 MiB down and up, and sizes around the MTU, once per real server. Ends at the first that
    fails, and is not begun where requests failed: one time-out more would tell nothing new.
    """
    out = "%{{http_code}} %{{exitcode}} %{{local_port}} %{{size_{what}}}\\n"
    common = (
        f"timeout {2 * TRANSFER_TIMEOUT} curl -q -s --noproxy '*' --fail-early "
        f"--connect-timeout {CONNECT_TIMEOUT} -m {TRANSFER_TIMEOUT} -y {STALL} -Y 1 "
        "-H 'Connection: close' "
        "-o /dev/null"
    )
    post = f"{common} -H Expect: -H 'Content-Type: application/octet-stream'"
    down = f"{common} -w 'down {MIB} {out.format(what='download')}' '{base}/1m?[1-{each}]'"
    ups = [
        f'head -c {size} /dev/zero >"$lv_up" && {post} --data-binary "@$lv_up" '
        f"-w 'up {size} {out.format(what='upload')}' '{base}/upload?[1-{each}]'"
        for size in (*SIZES, MIB)
    ]
    body = " &&\n  ".join(ups)
    return f"""
lv_transfers() {{
  {down} || return 0
  lv_up=$(mktemp) || return 1
  {body}
  rm -f "$lv_up"; return 0
}}
if [ "$lv_bad" = 0 ]; then rec transfers lv_transfers; else rec transfers echo "not tried"; fi
"""


def _probe(mark: MarkPlan, base: str, vip: IPAddress, port: int, *, udp: bool) -> str:
    if udp:
        send = f"lv_perl udp {vip} {port} 1 {CONNECT_TIMEOUT} {mark.first_port}"
    else:
        send = f"lv_curl --local-port {mark.first_port}-{mark.last_port} '{base}/'"
    return f"rec probe:{mark.server.name} lv_batch {send}"
