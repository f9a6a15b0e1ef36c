from __future__ import annotations

import errno

import pytest

from lvsfab.labs import namespaces


@pytest.mark.parametrize(
    ("settings", "number", "command"),
    [
        (
            {"/proc/sys/kernel/unprivileged_userns_clone": "0"},
            errno.EPERM,
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        (
            {"/proc/sys/user/max_user_namespaces": "0"},
            errno.ENOSPC,
            "sudo sysctl -w user.max_user_namespaces=10000",
        ),
        (
            {"/proc/sys/user/max_net_namespaces": "0"},
            errno.ENOSPC,
            "sudo sysctl -w user.max_net_namespaces=10000",
        ),
        (
            {
                "/proc/sys/kernel/unprivileged_userns_clone": "1",
                "/proc/sys/user/max_user_namespaces": "9000",
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
            },
            errno.EACCES,
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ({}, errno.ENOSPC, "sudo sysctl -w user.max_user_namespaces=10000"),
        ({}, errno.EPERM, "--security-opt seccomp=unconfined"),
    ],
)
def test_what_would_allow_namespaces(settings: dict[str, str], number: int, command: str) -> None:
    message, tip = namespaces.explain(number, settings.get)
    assert message
    assert command in tip
