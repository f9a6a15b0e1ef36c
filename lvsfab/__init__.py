"""lvsfab: one command from bare machines to a proven LVS cluster.

`lvsfab.Fleet` is the way in from Python (api.py has it all); loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvsfab.api import Done, Fleet, HostResult, Limits, State, Task

__version__ = "0.1.0"
__all__ = ["Done", "Fleet", "HostResult", "Limits", "State", "Task", "__version__"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lvsfab import api  # the command line starts without it

        return getattr(api, name)
    raise AttributeError(f"module `lvsfab` has no attribute `{name}`")
