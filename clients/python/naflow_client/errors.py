"""Exceptions of the client package.

`str(error)` is one line that a user can act on: what is wrong, naming the file or setting, and in
brackets what to do about it.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all public exceptions of `naflow_client`.

    Attributes:
        code: stable machine-readable name.
        message: what is wrong, naming the file or the setting.
        hint: what to do about it; may be empty.
    """

    code = "client_error"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = " ".join(message.split())
        self.hint = " ".join(hint.split())
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class PictureError(ClientError):
    """A picture cannot be read, or cannot be fitted to the model."""

    code = "picture_invalid"


class PreprocessingError(ClientError):
    """A preprocessing setting has an unknown name or an impossible value."""

    code = "preprocessing_invalid"


class MapError(ClientError):
    """A layer map cannot be drawn: wrong shape, or values that are nan or infinite."""

    code = "map_invalid"


class OutputError(ClientError):
    """A file cannot be written."""

    code = "output_failed"
