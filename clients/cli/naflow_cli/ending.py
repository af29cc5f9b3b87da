"""How a command ends: an exit status, and one line on stderr where it failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

# typer's own copy of click's base of usage errors, or click's, depending on its version
UsageFault = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def ended(command: Callable[[], Any]) -> int:
    """Run a command. Returns its exit status; whatever went wrong is told in one line."""
    try:
        result = command()
        sys.stdout.flush()  # here, where a reader that has gone can still be dealt with
        # some versions of typer turn Ctrl-C into this status without a word
        return fail("interrupted", 130) if result == 130 else result if isinstance(result, int) else 0
    except typer.Exit as error:
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return fail("interrupted", 130)
    except BrokenPipeError:
        # the reader has gone; nothing can be said any more, and closing stdout must not say it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it is, no traceback
        return fail(*_described(error))


def _described(error: Exception) -> tuple[str, int]:
    from naflow_client import ClientError
    from naflow_core import NaflowError

    if isinstance(error, UsageFault):
        return _usage(error), 2
    if isinstance(error, NaflowError | ClientError):
        return str(error), 2
    if isinstance(error, OSError):
        return f"{error.filename or 'writing'}: {error.strerror or error}", 2
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory (use a smaller --batch-size or a smaller input)", 2
    if os.environ.get("NAFLOW_DEBUG"):
        raise error
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return (
        f"internal error, please report it: {type(error).__name__}: {first} (NAFLOW_DEBUG=1 shows where)",
        2,
    )


def _usage(error: Any) -> str:
    """Click's message; the option is named where a value was wrong."""
    text: str = error.format_message() if getattr(error, "param", None) is not None else error.message
    return text.strip().removesuffix(".")


def fail(message: str, status: int) -> int:
    """Tell what went wrong. Returns the status."""
    sys.stderr.write(f"naflow: {' '.join(message.split())}\n")
    return status
