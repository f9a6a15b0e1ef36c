"""What a host is, as far as lvsfab could ever change it; and how two such pictures differ.

Looking changes nothing: tools that load modules by being asked are asked only when their module
is there. Neighbours, counters, what time alone changes and what a boot sizes by the memory it finds
are left out.

A lab host's system calls are dear, so one program looks; and after the first picture it looks only
into directories that are on the host's own disk, the upper layer over the shared tree: a file that
is not there is the tree's. `completed` makes a whole picture of such a one and the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

# For perl; its argument: `whole`, or `part` where that can be done.
LOOK = r"""
use strict;
use POSIX ();
use Digest::MD5 ();
$ENV{LC_ALL} = "C";
$ENV{PATH} = "/usr/sbin:/usr/bin:/sbin:/bin";
my ($mount, $umount) = (165, 166); # system calls, whose texts must be variables
my ($disk, $place, $kind) = ("/dev/ubda", "/mnt", "ext4");
my (%upper, %looked, @files, @contents);

sub section { print "== ", shift, "\n", map { /\n\z/ ? $_ : "$_\n" } @_ }
sub has_module { -d "/sys/module/$_[0]" }
sub raw { # a file's content by three system calls
  my $file = POSIX::open($_[0], POSIX::O_RDONLY()) // return "";
  my ($all, $part) = ("", "");
  $all .= $part while (POSIX::read($file, $part, 1 << 16) // 0) > 0;
  POSIX::close($file);
  $all;
}
sub names { opendir(my $dir, $_[0]) or return; sort grep { !/^\.\.?\z/ } readdir $dir }
my %user; sub user { $user{$_[0]} //= getpwuid($_[0]) // $_[0] }
my %group; sub group { $group{$_[0]} //= getgrgid($_[0]) // $_[0] }
my %type = (4 => "d", 8 => "f", 10 => "l", 2 => "c", 6 => "b", 1 => "p");

sub upper { # below the host's own disk: its directories, its files
  my ($dir) = @_;
  $upper{$dir eq "" ? "/" : $dir} = 1;
  for (names("/mnt/upper$dir")) {
    lstat "/mnt/upper$dir/$_";
    if (-d _) { upper("$dir/$_") } else { $upper{"$dir/$_"} = 1 }
  }
}

sub walk { # $all: every directory below, not only those of the host's own disk
  my ($dir, $device, $all) = @_;
  my $at = $dir eq "/" ? "" : $dir;
  $looked{$dir} = 1;
  for my $name (names($dir)) {
    my $path = "$at/$name";
    next if $path =~ m{^/(proc|sys|dev|var/cache|var/log/journal|run/sshd\.pid|run/utmp)\z};
    my ($dev, undef, $mode, undef, $uid, $gid) = lstat $path or next;
    my $type = $type{$mode >> 12} or next;
    my $link = $type eq "l" ? readlink $path : "";
    push @files, sprintf("%s %s %o %s:%s %s", $path, $type, $mode & 07777, user($uid),
      group($gid), $link) unless $name =~ /log/ || $path eq "/root/.lesshst";
    if ($type eq "f" && $path =~ m{^/(etc|root|run|var/lib)/} && $path !~ m{^/var/lib/dpkg/}
        && ($all || $upper{$path})) {
      push @contents, "$path " . Digest::MD5::md5_hex(raw($path));
    }
    walk($path, $dev, $all) if $type eq "d" && $dev == $device && ($all || $upper{$path});
  }
}

sub sysctls {
  my ($dir) = @_;
  map {
    my ($name, $path) = ($_, "$dir/$_");
    /^(stable_secret|flush|inet_peer_threshold|.*_count|.*_.*mem)\z/ ? () :
      -d $path ? sysctls($path) : map { "$path:$_" } split /\n/, raw($path);
  } names($dir);
}

for (1 .. 5) { # an address that is still being probed for a duplicate is not there yet
  last unless `ip -6 addr show tentative` =~ /./;
  sleep 1;
}
section("addresses", sort map { s/valid_lft.*//r =~ s/\\ *$//r } `ip -o addr`);
section("links", sort map { s/promiscuity.*//r =~ s/\\ */ /gr } `ip -o -d link`);
section("routes", sort map { s/ expires [^ ]*//r =~ s/ *$//r }
  `ip route show table all`, `ip -6 route show table all`);
section("rules", `ip rule`, `ip -6 rule`);
section("sysctl", sysctls("/proc/sys/net"));
section("ipvs", has_module("ip_vs") ? `ipvsadm -Sn` : ());
section("arptables", has_module("arp_tables") ? `arptables-legacy -nL` : ());
section("nft", has_module("nf_tables") ? `nft list ruleset` : ());
section("fou", has_module("fou") ? `ip fou show` : ());
section("modules", sort map { /^(\S+)/ } split /\n/, raw("/proc/modules"));
section("processes", sort map {
  my $line = raw("/proc/$_/cmdline") =~ s/\0+\z//r =~ tr/\0\n/  /r;
  my $uid = (lstat "/proc/$_")[4];
  $_ == $$ || $line =~ /^$|sshd|sh -|sftp/ ? () : user($uid) . " $line";
} grep { /^\d+\z/ } names("/proc"));
my $part = $ARGV[0] eq "part" && -b $disk
  && syscall($mount, $disk, $place, $kind, 0, 0) == 0;
if ($part) { upper(""); syscall($umount, $place, 0) == 0 or die "$place: $!" }
for ("/", "/run", "/tmp") {
  my $device = (lstat $_)[0];
  walk($_, $device, !$part || $_ ne "/");
}
# what the packages are is one file, and it is the tree's or it is not
section("packages", `dpkg-query -W -f '\${binary:Package} \${Version} \${Status}\\n'`)
  if !$part || $upper{"/var/lib/dpkg/status"};
section("looked", sort keys %looked) if $part;
section("files", sort grep { !m{^/(run|tmp) d} } @files);
section("contents", sort @contents);
"""

Picture = Mapping[str, Mapping[str, str]]  # host -> section -> lines


def completed(whole: Picture, part: Picture) -> Picture:
    """`part` with what it did not look at as it is in `whole`."""
    return {host: _completed(whole.get(host, {}), found) for host, found in part.items()}


def _completed(whole: Mapping[str, str], part: Mapping[str, str]) -> Mapping[str, str]:
    if "looked" not in part:
        return part
    looked = set(part["looked"].splitlines())
    seen = {_path(line) for line in part["contents"].splitlines()}
    files = [line for line in whole["files"].splitlines() if _folder(_path(line)) not in looked]
    contents = [line for line in whole["contents"].splitlines() if _path(line) not in seen]
    own = {name: text for name, text in part.items() if name != "looked"}
    own["files"] = _sorted(files, part["files"])
    own["contents"] = _sorted(contents, part["contents"])
    return {"packages": whole["packages"], **own}


def _sorted(lines: list[str], text: str) -> str:
    return "\n".join(sorted([*lines, *text.splitlines()]))


def _path(line: str) -> str:
    return line.split(" ", 1)[0]


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def differences(before: Picture, after: Picture) -> list[str]:
    """One line for each difference, with host and section; what is missing whole is one too."""
    found = [f"{host}: missing" for host in before if host not in after]
    for host, sections in after.items():
        found += [
            f"{host} {name}: missing" for name in before.get(host, {}) if name not in sections
        ]
        for section, text in sections.items():
            was = before.get(host, {}).get(section, "")
            found += [
                f"{host} {section}: {line}"
                for line in difflib.unified_diff(
                    was.splitlines(), text.splitlines(), n=0, lineterm=""
                )
                if not line.startswith(("---", "+++", "@@"))
            ]
    return found
