"""What a lab that is up was made from: the `spec` in its directory, the same for every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvsfab.errors import LabError
from lvsfab.labs import BACKENDS, boot, lab_on, runtime
from lvsfab.model import Inventory


class Made:
    """The part of a lab that knows its spec. LabError where it is not up, or is another lab."""

    backend: str
    name: str
    _inventory: Inventory
    _base: Path | None  # in place of the user's runtime directory

    @property
    def directory(self) -> Path:
        """What is kept of the lab on this machine."""
        return runtime.lab_directory(self.name, self.backend, self._base)

    def _check_alone(self) -> None:
        """LabError when a lab of this name is up on the other backend: of two, later commands would
        find the one or the other.
        """
        (other,) = (one for one in BACKENDS if one != self.backend)
        if not (runtime.lab_directory(self.name, other, self._base) / "spec").exists():
            return
        try:
            up = lab_on(other, self._inventory, self._base).running()
        except LabError:  # its engine is gone
            return
        if up:
            raise LabError(
                f"the lab {self.name} is up already, on the other backend ({other})",
                tip=f"take that down first: lvsfab lab down --backend {other}; or give this "
                "inventory another name",
            )

    def _down_error(self) -> LabError:
        return LabError(f"the lab {self.name} is not up", tip="lvsfab lab up")

    def _made(self) -> dict[str, Any]:
        """The spec the lab was started with."""
        try:
            made: dict[str, Any] = json.loads((self.directory / "spec").read_text())
        except (OSError, ValueError):
            raise self._down_error() from None
        return made

    def _check_same(self) -> dict[str, Any]:
        made = self._made()
        if made["digest"] != boot.digest(self._inventory):
            other = made["inventory"] or "an inventory without a file"
            raise LabError(
                f"a lab named {self.name} is up, made from {other}, with other hosts or networks"
                " than this inventory has",
                tip="take it down (lvsfab lab down), or give this inventory another name",
            )
        return made

    def _host(self, host: str) -> dict[str, Any]:
        known: dict[str, dict[str, Any]] = self._check_same()["hosts"]
        if host not in known:
            raise LabError(f"the lab {self.name} has no host `{host}`: {', '.join(known)}")
        return known[host]
