"""What runs a test page on a host: a configuration of Apache of its own, a UDP responder in perl,
and the shell functions that start and stop them.

Apache's workers are not root, and /run/lvsfab is root's alone: what they serve lies in
/run/lvsfab-testpage-PORT, all else in /run/lvsfab/testpage-PORT. A page needs no fork: mod_include
fills in who was reached by whom (and takes uploads too), mod_ratelimit makes /slow.
"""

from __future__ import annotations

import hashlib

# AcceptFilter none: a connection that is held open without a request is a connection.
_HTTPD_CONF = r"""
ServerRoot $t_dir
DefaultRuntimeDir $t_dir
PidFile $t_dir/pid
ServerName $3
Listen $1
ErrorLog $t_dir/error.log
LogFormat "%a %A %>s %B" page
CustomLog $t_dir/access.log page
User $t_user
Group $t_group
StartServers 1
MaxRequestWorkers 64
<IfModule !mpm_prefork_module>
ServerLimit 1
ThreadsPerChild 64
ThreadLimit 64
MinSpareThreads 1
MaxSpareThreads 64
ThreadStackSize 262144
</IfModule>
AcceptFilter http none
UseCanonicalName Off
UseCanonicalPhysicalPort On
EnableSendfile Off
EnableMMAP Off
KeepAlive On
KeepAliveTimeout 5
Timeout 120
DocumentRoot $t_www
DirectoryIndex index.html
<Directory "$t_www">
Require all granted
Options +Includes
ForceType text/plain
</Directory>
<FilesMatch "^(index.html|upload)\$">
SetOutputFilter INCLUDES
</FilesMatch>
<Files "slow">
SetOutputFilter RATE_LIMIT
SetEnv rate-limit 16
</Files>
"""

_RESPONDER = r"""
use strict; use Socket qw(:all); use POSIX ();
my ($name, $bind, $port, $dir) = @ARGV;
my ($error, $at) = getaddrinfo($bind, $port,
  {flags => AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, socktype => SOCK_DGRAM});
die "$bind: $error\n" if $error;
socket(my $s, $at->{family}, SOCK_DGRAM, 0) or die "socket: $!\n";
setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);
# IP_FREEBIND, IPV6_FREEBIND: the VIP may come after the page
$at->{family} == AF_INET6 ? setsockopt($s, 41, 78, 1) : setsockopt($s, 0, 15, 1);
bind($s, $at->{addr}) or die "bind $bind $port: $!\n";
open(my $log, '>>', "$dir/access.log") or die "log: $!\n";
$log->autoflush(1);
my $pid = fork; defined $pid or die "fork: $!\n";
if ($pid) { open(my $f, '>', "$dir/pid") or die; print $f "$pid\n"; close $f; exit 0 }
POSIX::setsid(); chdir '/';
open(STDIN, '<', '/dev/null'); open(STDOUT, '>', '/dev/null'); open(STDERR, '>', '/dev/null');
$SIG{TERM} = sub { exit 0 };
while (1) {
  my $from = recv($s, my $data, 2048, 0);
  next unless defined $from && length $from;
  my ($e, $peer) = getnameinfo($from, NI_NUMERICHOST | NI_NUMERICSERV);
  next if $e;
  my $line = "$name reached at $bind port $port by $peer\n";
  my $sent = defined send($s, $line, 0, $from) ? length $line : 0;
  next if $data =~ /^(keepalived check|\z)/; # a UDP_CHECK (its lib/layer4.c, set_buf) is no request
  print $log "$peer $bind ", ($sent ? 200 : 500), " $sent\n";
}
"""

HELPERS = (
    r"""
testpage_pids() { # of PORT: its processes, by their command line and their program
  t_word=; { read -r t_word t_exe <"/run/lvsfab/testpage-$1/state"; } 2>/dev/null
  [ "$t_word" = exe ] || return 0
  for t_file in $(grep -l -a -E "testpage-$1[/](httpd.conf|responder)" /proc/[0-9]*/cmdline \
    2>/dev/null); do
    t_proc=${t_file%/cmdline}
    [ "$t_proc/exe" -ef "$t_exe" ] && printf '%s ' "${t_proc#/proc/}"
  done
  return 0
}
testpage_sum() { # of PORT: t_sum tells what was installed
  t_sum=$(cksum "/run/lvsfab/testpage-$1/httpd.conf" "/run/lvsfab/testpage-$1/responder" \
    "/run/lvsfab-testpage-$1/index.html" 2>/dev/null)
  set -- $t_sum
  t_sum=$*
}
testpage_stop() { # PORT: ends its processes, 3 s at most, then by force; removes what it had
  t_tries=0
  while t_pids=$(testpage_pids "$1"); [ -n "$t_pids" ]; do
    t_tries=$((t_tries + 1))
    case $t_tries in
    1) kill $t_pids 2>/dev/null ;;
    60) kill -KILL $t_pids 2>/dev/null ;;
    80) echo "test page $1 does not end: $t_pids"; return 1 ;;
    esac
    nap 0.05
  done
  rm -rf "/run/lvsfab-testpage-$1" # first: the other one tells that there is a page
  rm -rf "/run/lvsfab/testpage-$1"
}
testpage_start() { # PORT PROTOCOL NAME BIND TEXT
  testpage_stop "$1" || return 1
  t_dir=/run/lvsfab/testpage-$1 t_www=/run/lvsfab-testpage-$1
  mkdir -p "$t_dir" || return 1
  "testpage_$2" "$@" >"$t_dir/said" 2>&1 </dev/null
  t_status=$?
  if [ "$t_status" = 0 ]; then
    t_tries=0
    until [ -s "$t_dir/pid" ] && [ -n "$(testpage_pids "$1")" ]; do
      t_tries=$((t_tries + 1))
      [ "$t_tries" -lt 100 ] || { t_status=1; break; }
      nap 0.05
    done
  fi
  if [ "$t_status" != 0 ]; then
    cat "$t_dir/said"; tail -n 5 "$t_dir/error.log" 2>/dev/null
    testpage_stop "$1"
    return 1
  fi
  testpage_sum "$1"
  printf 'port %s\nprotocol %s\nname %s\nbind %s\ntext %s\nsum %s\n' \
    "$1" "$2" "$3" "$4" "$5" "$t_sum" >>"$t_dir/state"
}
testpage_tcp() {
  t_httpd= t_modules= t_user= t_mpm=
  for t_file in apache2 httpd httpd2 httpd-prefork; do
    [ -n "$t_httpd" ] || t_httpd=$(command -v "$t_file")
  done
  [ -n "$t_httpd" ] || { echo "no Apache here (apache2, httpd): install it first"; return 1; }
  for t_file in /usr/lib/apache2/modules /usr/lib64/httpd/modules /usr/lib/httpd/modules \
    /usr/lib64/apache2 /usr/lib64/apache2-event /usr/lib64/apache2-prefork /usr/lib/apache2 \
    /usr/libexec/apache2; do
    [ -z "$t_modules" ] && [ -e "$t_file/mod_include.so" ] && t_modules=$t_file
  done
  [ -n "$t_modules" ] || { echo "$t_httpd has no mod_include"; return 1; }
  for t_file in www-data apache wwwrun http nobody; do
    [ -z "$t_user" ] && id "$t_file" >/dev/null 2>&1 && t_user=$t_file
  done
  t_group=$(id -gn "$t_user")
  printf 'exe %s\n' "$(readlink -f "$t_httpd")" >"$t_dir/state"
  {
    t_builtin=$("$t_httpd" -l)
    for t_file in event worker prefork; do
      case $t_builtin in *" $t_file.c"*) t_mpm=$t_file ;; esac
    done
    for t_file in event worker prefork; do
      [ -z "$t_mpm" ] && [ -e "$t_modules/mod_mpm_$t_file.so" ] && t_mpm=$t_file &&
        printf 'LoadModule mpm_%s_module %s\n' "$t_mpm" "$t_modules/mod_mpm_$t_mpm.so"
    done
    for t_file in authz_core include dir env ratelimit log_config unixd; do
      [ -e "$t_modules/mod_$t_file.so" ] && printf \
        '<IfModule !%s_module>\nLoadModule %s_module %s\n</IfModule>\n' \
        "$t_file" "$t_file" "$t_modules/mod_$t_file.so"
    done
    cat <<CONF
"""
    + _HTTPD_CONF
    + r"""
CONF
  } >"$t_dir/httpd.conf"
  (
    umask 022
    mkdir "$t_www" && cd "$t_www" || exit 1
    printf '%s reached at %s port %s by %s\n' "$3" \
      '<!--#echo encoding="none" var="SERVER_ADDR" -->' \
      '<!--#echo encoding="none" var="SERVER_PORT" -->' \
      '<!--#echo encoding="none" var="REMOTE_ADDR" -->' >index.html
    ln index.html upload
    dd if=/dev/urandom of=1m bs=65536 count=16 2>/dev/null && ln 1m slow
  ) || return 1
  "$t_httpd" -f "$t_dir/httpd.conf" -k start
}
testpage_udp() {
  t_perl=$(command -v perl) || { echo "no perl here: install it first"; return 1; }
  printf 'exe %s\n' "$(readlink -f "$t_perl")" >"$t_dir/state"
  cat >"$t_dir/responder" <<'RESPONDER'
"""
    + _RESPONDER
    + r"""
RESPONDER
  perl "$t_dir/responder" "$3" "$4" "$1" "$t_dir"
}
"""
)

TEXT = hashlib.sha256(HELPERS.encode()).hexdigest()[:12]
