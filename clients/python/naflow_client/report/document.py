"""Putting the report together: one HTML file without any outside resource.

The content security policy allows the one script and the one style sheet by their hashes, pictures
from data URLs, and nothing else: a hostile tensor or file name could not run or load anything even if
it got past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from importlib import resources
from pathlib import Path

from naflow_client._files import write_file
from naflow_client.report.model import Report
from naflow_client.report.payload import payload, script_safe

_TEMPLATE = "report.html"
_STYLE = "report.css"
_SCRIPTS = ("maps.js", "view.js", "report.js")


def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Write the report as one HTML file that works offline from any folder.

    The same report gives the same bytes.

    Raises:
        MapError: if there is no picture, or a picture or map has the wrong shape.
        OutputError: if the file cannot be written.
    """
    return write_file(path, render_report(report).encode("utf-8", "replace"))


def render_report(report: Report) -> str:
    """The HTML text of `write_report`."""
    style = _asset(_STYLE)
    script = '"use strict";\n' + "\n".join(_asset(name) for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {
        "{{policy}}": html.escape(policy),
        "{{title}}": html.escape(report.title),
        "{{style}}": style,
        "{{data}}": script_safe(payload(report)),
        "{{script}}": script,
    }
    # Split at the marks instead of replacing one after the other: a value that looks like a mark stays text.
    text = _asset(_TEMPLATE)
    parts = []
    for mark, value in filled.items():
        before, _, text = text.partition(mark)
        parts += [before, value]
    return "".join([*parts, text])


def _asset(name: str) -> str:
    source = resources.files("naflow_client.report").joinpath("assets", name)
    return source.read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    """A source expression for exactly this element content."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
