"""Writing result files."""

from __future__ import annotations

import os
from pathlib import Path

from naflow_client.errors import OutputError


def write_file(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path`, making missing folders. The file is replaced as a whole or not at all.

    Raises:
        OutputError: naming the path and the reason.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.replace(target)
    except OSError as error:
        scratch.unlink(missing_ok=True) if scratch.parent.is_dir() else None
        reason = error.strerror or str(error)
        raise OutputError(
            f"{os.fspath(path)}: cannot be written: {reason}", "choose a folder that you may write to"
        ) from error
    return target
