"""The typer application: its commands in order, its help, and what happens to errors."""
from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import sardonyx
import typer
from sardonyx.errors import SardonyxError
from typer.core import TyperGroup

from . import autotune, bundle, check, convert, explain, inspect, run, serve, show

HELP = """Convert ONNX models to .sdx, look into them, run them and compare them with onnxruntime.

MODEL is an .onnx or an .sdx file everywhere."""
EPILOG = """\b
Examples:
  sardonyx convert model.onnx --report               writes model.sdx, says what was done
  sardonyx inspect model.onnx                        inputs, outputs, operators, weights
  sardonyx run model.sdx --input image=cat.png       outputs with their top values
  sardonyx check model.onnx --intermediate           the first node that differs from onnxruntime
  sardonyx COMMAND --help                            options and examples of a command

\b
Exit codes: 0 done, 1 check found a difference, 2 a wrong file or option, 3 a bug of sardonyx.
SARDONYX_DEBUG=1 shows tracebacks."""
#: The user's mistakes, and what their machine lacks.
EXPECTED = (SardonyxError, OSError, ImportError, MemoryError)


class Commands(TyperGroup):
    """The group of commands: an error becomes one line on stderr, a warning too."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, *_args, **_keywords: show.note(f"warning: {message}")
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `sardonyx inspect … | head`: nobody reads on, also not at exit
                raise typer.Exit(0) from None
            except Exception as error:
                if isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "format_message") or os.environ.get("SARDONYX_DEBUG", "0") not in ("", "0"):
                    raise  # typer's own, or the traceback was asked for
                if isinstance(error, EXPECTED) and not (isinstance(error, ImportError) and (error.name or "").startswith("sardonyx")):
                    show.error(str(error) or type(error).__name__)
                    raise typer.Exit(2) from None
                show.error(f"{type(error).__name__}: {error} (this is a bug of sardonyx: please report it with the traceback that SARDONYX_DEBUG=1 shows)")
                raise typer.Exit(3) from None


app = typer.Typer(name="sardonyx", cls=Commands, help=HELP, epilog=EPILOG, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  add_completion=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})


def _version(wanted: bool) -> None:
    if wanted:
        print(f"sardonyx {sardonyx.__version__}")
        raise typer.Exit()


@app.callback()
def _options(show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False) -> None:
    pass


app.command(epilog=convert.EPILOG, cls=convert.ReportCommand)(convert.convert)
app.command(epilog=inspect.EPILOG)(inspect.inspect)
app.command(epilog=run.EPILOG)(run.run)
app.command(epilog=check.EPILOG)(check.check)
app.command(epilog=explain.EPILOG)(explain.explain)
app.command(epilog=autotune.EPILOG)(autotune.autotune)
app.command(epilog=bundle.EPILOG)(bundle.bundle)
app.command(epilog=serve.EPILOG)(serve.serve)
