"""A reader for protobuf text format without a schema, as far as config.pbtxt files need it.

Every field becomes a list of its values in order, a message becomes a dict, `[a, b]` adds each of its
elements. Unknown fields are kept, so that configurations written for other servers can be read.
"""

from __future__ import annotations

import re
from typing import NoReturn

Value = str | int | float | bool | dict[str, "list[Value]"]
Message = dict[str, "list[Value]"]

DEEPEST = 64
LONGEST_NUMBER = 100
OCTAL = re.compile(r"[-+]?0[0-7]+")
TOKEN = re.compile(
    r"""(?P<space>(?:[\s]|\#[^\n]*)+)
      | (?P<name>[A-Za-z_][A-Za-z0-9_./-]*)
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fF]?)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<sign>[{}<>\[\]:,;-])""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
CLOSING = {"{": "}", "<": ">"}


class TextFormatError(ValueError):
    """The text is not protobuf text format; the message names the line."""


def parse(text: str) -> Message:
    """Read a message.

    Raises:
        TextFormatError: the text is not well formed.
    """
    return _Parser(text).message("", 0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._kind, self._token = "", ""
        self._advance()

    def _advance(self) -> None:
        while True:
            if self._at >= len(self._text):
                self._kind, self._token = "end", ""
                return
            match = TOKEN.match(self._text, self._at)
            if match is None:
                self._fail(f"unexpected {self._text[self._at]!r}")
            self._at = match.end()
            if match.lastgroup != "space":
                self._kind, self._token = str(match.lastgroup), match.group()
                return

    def _fail(self, reason: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        raise TextFormatError(f"line {line}: {reason}")

    def _take(self, token: str) -> bool:
        if self._kind == "sign" and self._token == token:
            self._advance()
            return True
        return False

    def message(self, closing: str, depth: int) -> Message:
        if depth > DEEPEST:
            self._fail("messages are nested too deeply")
        fields: Message = {}
        while not (self._kind == "end" or (self._kind == "sign" and self._token == closing)):
            name = self._field_name()
            colon = self._take(":")
            values = fields.setdefault(name, [])
            if self._kind == "sign" and self._token == "[":
                self._advance()
                while not self._take("]"):
                    values.append(self._value(depth))
                    if not self._take(",") and self._token != "]":
                        self._fail("a list lacks its ]")
            elif colon or self._token in CLOSING:
                values.append(self._value(depth))
            else:
                self._fail(f"field {name!r} has no value")
            while self._take(",") or self._take(";"):
                pass
        if closing and not self._take(closing):
            self._fail(f"a message lacks its {closing}")
        return fields

    def _field_name(self) -> str:
        if self._kind == "name":
            name = self._token
            self._advance()
            return name
        if not self._take("["):
            self._fail("a field name is missing")
        name = self._token  # an extension: kept under its full name
        self._advance()
        if not self._take("]"):
            self._fail("an extension's name lacks its ]")
        return name

    def _value(self, depth: int) -> Value:
        kind, token = self._kind, self._token
        if kind == "sign" and token in CLOSING:
            self._advance()
            return self.message(CLOSING[token], depth + 1)
        if kind == "string":
            parts = []
            while self._kind == "string":
                parts.append(ESCAPE.sub(_unescaped, self._token[1:-1]))
                self._advance()
            return "".join(parts)
        if kind == "number" and len(token) > LONGEST_NUMBER:
            self._fail("a number is too long")
        self._advance()
        if kind == "number":
            return _number(token)
        if kind == "sign" and token == "-" and self._kind == "name":  # -inf
            name = self._token
            self._advance()
            return f"-{name}"
        if kind != "name":
            self._fail("a value is missing")
        return {"true": True, "True": True, "false": False, "False": False}.get(token, token)


def _number(token: str) -> int | float:
    if token.lower().lstrip("+-").startswith("0x"):
        return int(token, 16)
    if OCTAL.fullmatch(token):
        return int(token, 8)
    plain = token.rstrip("fF")
    return float(plain) if set(plain) & set(".eE") or plain != token else int(plain)


def _unescaped(match: re.Match[str]) -> str:
    hexadecimal, octal, char = match.groups()
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    if octal:
        return chr(int(octal, 8))
    return ESCAPED.get(char, char)
