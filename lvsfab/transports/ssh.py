"""SSH by fabric and paramiko: one connection and one exec a host, host keys always verified."""

from __future__ import annotations

import getpass
import logging
import math
import secrets
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lvsfab.errors import LvsfabError, UnreachableError
from lvsfab.model import Secret
from lvsfab.transports import trust
from lvsfab.transports.endpoint import Endpoint
from lvsfab.transports.trust import fingerprint

if TYPE_CHECKING:
    import paramiko
    import tenacity

CONNECT_TIMEOUT = 15.0  # s for TCP, key exchange and login together
END_TIMEOUT = 2.0  # s for the few bytes that end a shell's input, or close it
RETRY_WAIT = 0.5  # s before a refused connection is tried again
KEEPALIVE = 10  # s of waiting, then the host is told something: one that was booted anew resets
SILENCE = 90  # s without a word of the host's kernel, then it is gone
MAX_STDERR = 64 * 1024  # bytes kept of what comes on standard error
CHUNK = 64 * 1024
DRAINED = 64  # chunks of standard error taken at a time


class SSHChannel:
    """A shell's standard input and output over SSH (`session.Channel`)."""

    def __init__(self, close: Callable[[], None], channel: paramiko.Channel) -> None:
        self._close = close
        self._channel = channel
        self._stderr = bytearray()

    def send(self, data: bytes, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._within(timeout):
            for start in range(0, len(data), CHUNK):
                part = data[start : start + CHUNK]
                while part:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("the host takes no more")
                    self._channel.settimeout(min(left, CONNECT_TIMEOUT))
                    sent = self._channel.send(part)
                    if not sent:
                        raise ConnectionError("the host closed its input")
                    part = part[sent:]

    def recv(self, timeout: float) -> bytes:
        self._channel.settimeout(timeout)
        try:
            with _as_os_errors():
                return self._channel.recv(CHUNK)
        finally:
            self._drain()

    @contextmanager
    def _within(self, timeout: float) -> Iterator[None]:
        """What is sent in here ends by then. A channel's time-out does not bound that: paramiko
        waits for ever for a host whose TCP takes nothing, until somebody closes the connection.
        """
        over = threading.Event()

        def end() -> None:
            over.set()
            self._close()

        timer = threading.Timer(timeout, end)
        timer.daemon = True
        timer.start()
        try:
            with _as_os_errors():
                yield
        except OSError as error:
            if over.is_set():
                raise TimeoutError("the host takes no more") from error
            raise
        finally:
            timer.cancel()

    def _drain(self) -> None:
        for _ in range(DRAINED):  # a host that never ends it keeps nobody
            if not self._channel.recv_stderr_ready():
                break
            data = self._channel.recv_stderr(CHUNK)
            if not data:
                break
            self._stderr += data[: MAX_STDERR - len(self._stderr)]

    def stderr(self) -> bytes:
        self._drain()
        return bytes(self._stderr)

    def end_input(self) -> None:
        with self._within(END_TIMEOUT):
            self._channel.shutdown_write()

    def close(self) -> None:
        with suppress(OSError), self._within(END_TIMEOUT):  # the other end is gone
            self._channel.close()
        self._close()


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Paramiko's own errors (a connection that was closed, a key exchange that the host never
    ended) as what a channel may raise.
    """
    from paramiko import SSHException  # loaded long before

    try:
        yield
    except (SSHException, EOFError) as error:
        raise ConnectionError(str(error) or "the connection was closed") from error


def connect(endpoint: Endpoint) -> SSHChannel:
    """Log in and start the one shell. UnreachableError says why not, and what to do."""
    try:
        return _patiently(endpoint, endpoint.connect_timeout or CONNECT_TIMEOUT)
    except LvsfabError:
        raise
    except Exception as error:
        raise _explained(endpoint, error) from None


def _explained(endpoint: Endpoint, error: Exception) -> UnreachableError:
    """Whatever came of it: paramiko meets a host that speaks no SSH with any exception (IndexError,
    UnicodeDecodeError, struct.error), and one host's nonsense is no other host's end.
    """
    import paramiko  # heavy: only when a host is reached

    if isinstance(error, paramiko.AuthenticationException):
        return UnreachableError(
            endpoint.name,
            f"login refused: {error}",
            tip="try `ssh` to it by hand; name a user and key in the inventory (ssh:)",
        )
    text = str(error) or type(error).__name__
    if not isinstance(error, paramiko.SSHException | OSError | EOFError):
        text = f"{type(error).__name__}: {error}"
    where = endpoint.address + (f" port {endpoint.port}" if endpoint.port else "")
    return UnreachableError(endpoint.name, f"no SSH connection to {where}: {text}")


def _changed(
    endpoint: Endpoint, error: paramiko.BadHostKeyException, name: str
) -> UnreachableError:
    """`name`: what known_hosts calls the host."""
    if endpoint.host_key:
        way = "`lvsfab lab down` and `lab up` give the lab new ones"
    else:
        way = f"if the host was made anew: `ssh-keygen -R '{name}'`, then accept the new one by ssh"
    return UnreachableError(
        endpoint.name,
        f"its host key changed: expected {fingerprint(error.expected_key)}, "
        f"got {fingerprint(error.key)}",
        tip=f"somebody may be in between; {way}",
    )


def _patiently(endpoint: Endpoint, timeout: float) -> SSHChannel:
    """A refused or reset connection is tried again for a moment: an sshd just starting."""
    try:
        return _open(endpoint, timeout)
    except (ConnectionError, EOFError):
        time.sleep(RETRY_WAIT)
        return _retrying(timeout)(_open, endpoint, timeout)


def _retrying(timeout: float) -> tenacity.Retrying:
    import tenacity  # only when the first attempt failed

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((ConnectionError, EOFError)),
        stop=tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(timeout),
        wait=tenacity.wait_fixed(RETRY_WAIT),
        reraise=True,
    )


def _open(endpoint: Endpoint, timeout: float) -> SSHChannel:
    config = {} if endpoint.host_key or endpoint.dial else trust.looked_up(endpoint.address)
    timeout = endpoint.connect_timeout or trust.connect_timeout(config, timeout)
    if "proxyjump" in config or "proxycommand" in config:
        client, close = _by_fabric(endpoint, config, timeout)
    else:
        client, close = _direct(endpoint, config, timeout)
    try:
        from lvsfab.transports.bounded import bound  # paramiko is loaded by now

        transport: Any = client.get_transport()
        transport.set_keepalive(KEEPALIVE)
        channel = transport.open_session(timeout=timeout)
        bound(channel)
        channel.settimeout(timeout)
        if endpoint.sudo and endpoint.sudo_password is not None:
            _by_sudo(endpoint.name, channel, endpoint.sudo_password, timeout)
        else:
            channel.exec_command("sudo -n -- sh -s" if endpoint.sudo else "exec sh -s")
    except BaseException:
        close()
        raise
    return SSHChannel(close, channel)


def _by_sudo(host: str, channel: Any, password: Secret, timeout: float) -> None:
    """A shell of root's on `channel`. sudo is given the password on its standard input, and only
    once it asks: where it does not ask, the shell would take the password for a command.
    """
    word = f"lvsfab-{secrets.token_hex(8)}"
    asks, ready = f"{word}?".encode(), f"{word}!\n".encode()
    channel.exec_command(f"sudo -S -p '{word}?' -- sh -c 'echo {word}!; exec sh -s'")
    said, heard, given = bytearray(), bytearray(), False
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)  # either stream, or the end
    deadline = time.monotonic() + timeout
    while not heard.endswith(ready):
        left = deadline - time.monotonic()
        if left <= 0 or len(said) + len(heard) > MAX_STDERR or not poll.poll(1000 * left):
            raise UnreachableError(host, f"sudo did not give a shell within {timeout:.0f} s")
        if channel.recv_stderr_ready():
            said += channel.recv_stderr(CHUNK)
        elif channel.recv_ready():
            heard += channel.recv(CHUNK)
        elif channel.eof_received or channel.closed:
            told = said.replace(password.reveal().encode(), b"***")  # a host may say it back
            why = told.decode(errors="backslashreplace").strip()[-500:]
            raise UnreachableError(host, f"sudo gave no shell: {why or 'it said nothing'}")
        if asks in said:
            if given:
                raise UnreachableError(
                    host, "sudo does not take the password", tip=f"try `sudo -v` on {host} by hand"
                )
            channel.sendall(f"{password.reveal()}\n".encode())
            given = True
            said.clear()


def _direct(
    endpoint: Endpoint, config: Mapping[str, Any], timeout: float
) -> tuple[Any, Callable[[], None]]:
    """With paramiko alone. TCP comes first: while paramiko is loaded here, sshd starts there."""
    host = config.get("hostname", endpoint.address)
    port = endpoint.port or int(config.get("port", 22))
    sock = (
        endpoint.dial(timeout) if endpoint.dial else socket.create_connection((host, port), timeout)
    )
    try:
        if sock.family != socket.AF_UNIX:  # a lab's gate gives a pair of local sockets
            lively(sock)
        paramiko = trust.load_paramiko()
        logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
        client = paramiko.SSHClient()
        known = trust.trust(client, endpoint, host, port, config)
        user = endpoint.user or config.get("user") or getpass.getuser()
        options = trust.key_options(endpoint.key, config) | _limits(timeout, known)
        try:
            client.connect(host, port, user, sock=sock, timeout=timeout, **options)
        except paramiko.BadHostKeyException as error:
            raise _changed(endpoint, error, known.name) from None
    except BaseException:
        sock.close()
        raise
    return client, client.close


def lively(sock: socket.socket) -> None:
    """No packet waits for another; a host that is gone is seen after 90 s, however long what it
    does may take (the kernel's own is two hours; a quarter of one for what it does not take).
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence = ("TCP_USER_TIMEOUT", SILENCE * 1000)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6), silence):
        if hasattr(socket, name):  # the names are Linux's
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _limits(timeout: float, known: trust.Trusted) -> dict[str, Any]:
    """What every connection is made with, through jumps too."""
    times = ("banner_timeout", "auth_timeout", "channel_timeout")
    return {"transport_factory": known.transport, **dict.fromkeys(times, timeout)}


def _by_fabric(
    endpoint: Endpoint, config: Mapping[str, Any], timeout: float
) -> tuple[Any, Callable[[], None]]:
    """fabric, for what it knows best: the user's ssh_config with its jumps and proxies."""
    import fabric  # heavy: only when a host is reached so

    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    connection = fabric.Connection(
        endpoint.address,
        user=endpoint.user or None,
        port=endpoint.port,
        config=fabric.Config(ssh_config=trust.for_fabric()),  # with what it includes
    )
    if isinstance(connection.gateway, str):  # a ProxyCommand is the shell's, as OpenSSH has it
        connection.gateway = shlex.join(["sh", "-c", trust.proxy_command(endpoint)])
    hops = [connection]
    while isinstance(hops[-1].gateway, fabric.Connection):
        hops.append(hops[-1].gateway)
    known = {}
    for hop in hops:
        of_hop = config if hop is connection else trust.looked_up(hop.original_host)
        known[hop.host] = trust.trust(hop.client, endpoint, hop.host, hop.port, of_hop)
        limit = endpoint.connect_timeout or trust.connect_timeout(of_hop, timeout)
        # set only now: fabric adds all of ssh_config's keys to those that it is made with
        hop.connect_timeout = math.ceil(limit)
        hop.connect_kwargs = trust.key_options(endpoint.key if hop is connection else None, of_hop)
        hop.connect_kwargs |= _limits(limit, known[hop.host])

    def close() -> None:
        for hop in hops:
            hop.close()

    try:
        connection.open()
    except trust.load_paramiko().BadHostKeyException as error:
        close()
        raise _changed(endpoint, error, known[error.hostname].name) from None
    except BaseException:
        close()
        raise
    return connection.client, close
