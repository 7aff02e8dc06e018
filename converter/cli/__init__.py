"""The command line `sardonyx`: `app` has the commands, one module each. Needs the extra `convert` (typer, rich)."""
from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `sardonyx` script. Exit codes: 0 done, 1 `check` found a difference, 2 the user's mistake, 3 a bug of ours."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f"error: the command line needs {error.name}: pip install 'sardonyx[convert]'")
    from .app import app
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # names of any script on a terminal of any encoding
    app()
