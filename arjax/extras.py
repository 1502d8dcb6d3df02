"""Optional dependencies, imported where they are used."""

import importlib
import types


def require(module: str, extra: str) -> types.ModuleType:
    """Imports a module of an optional extra.

    Raises:
        ImportError: it is not installed; the message has the command that does it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}): pip install 'arjax[{extra}]'") from error
