"""Files of docker/ that ship with lvsfab: in the package when installed, beside it in the tree."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def path(name: str) -> Path:
    """Where docker/NAME is."""
    shipped = _PACKAGE / "data" / "docker" / name
    return shipped if shipped.exists() else _PACKAGE.parent / "docker" / name


def text(name: str) -> str:
    return path(name).read_text()
