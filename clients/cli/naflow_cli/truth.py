"""What is known about pictures: their class and the boxes of the object, from a JSON or CSV file."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naflow_core as nf

Box = tuple[float, float, float, float]
COLUMNS = ("left", "top", "right", "bottom")
DIGITS = re.compile(r"\d{1,18}")
LARGEST_FILE = 64 << 20
FORMAT = 'JSON {"cat.jpg": {"boxes": [[left, top, right, bottom]], "class": 281}} or CSV with a heading'


@dataclass(frozen=True, slots=True)
class Truth:
    """One picture's.

    Attributes:
        classes: right ones, by number or name; empty where none is given.
        boxes: (left, top, right, bottom) in pixels of the picture file, upright.
    """

    classes: tuple[int | str, ...] = ()
    boxes: tuple[Box, ...] = ()


def read_truth(path: Path) -> dict[str, Truth]:
    """By file name of the picture.

    Raises:
        InputError: the file cannot be read, or an entry is wrong; names it.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise nf.InputError(f"{path}: larger than {LARGEST_FILE >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise nf.InputError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise nf.InputError(f"{path}: not UTF-8 text", hint=FORMAT) from error
    found = _from_csv(path, text) if path.suffix.lower() == ".csv" else _from_json(path, text)
    if not found:
        raise nf.InputError(f"{path}: names no picture", hint=FORMAT)
    return found


def class_numbers(truth: Truth, labels: nf.Labels | None, where: str) -> tuple[int, ...]:
    """The right classes by number; names need labels.

    Raises:
        TargetError: a name without labels, or one that is not among them.
    """
    found = []
    for given in truth.classes:
        if isinstance(given, int):
            found.append(given)
        elif labels is None:
            raise nf.TargetError(
                f"{where}: class {given!r} is a name", hint="give --labels, or the number of the class"
            )
        else:
            try:
                found.append(labels.index(given))
            except nf.TargetError as error:
                raise nf.TargetError(f"{where}: {error.message}", hint=error.hint) from error
    return tuple(dict.fromkeys(found))


def _from_json(path: Path, text: str) -> dict[str, Truth]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise nf.InputError(f"{path}: not JSON: {error}", hint=FORMAT) from error
    if not isinstance(content, dict):
        raise nf.InputError(f"{path}: holds a JSON {type(content).__name__}, not an object", hint=FORMAT)
    return {name: _entry(f"{path}: {name!r}", value) for name, value in content.items()}


def _entry(where: str, value: Any) -> Truth:
    if not isinstance(value, Mapping) or set(value) - {"boxes", "class"}:
        raise nf.InputError(f'{where}: must be an object with "boxes", "class" or both', hint=FORMAT)
    boxes = value.get("boxes", [])
    if not isinstance(boxes, list):
        raise nf.InputError(f'{where}: "boxes" must be a list of boxes', hint=FORMAT)
    given = value.get("class", [])
    classes = given if isinstance(given, list) else [given]
    for item in classes:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise nf.InputError(f'{where}: "class" must be a number, a name, or a list of these', hint=FORMAT)
    return Truth(tuple(classes), tuple(_box(where, box) for box in boxes))


def _box(where: str, values: Any) -> Box:
    numbers = values if isinstance(values, list | tuple) else ()
    if len(numbers) != 4 or not all(_is_number(v) for v in numbers):
        raise nf.InputError(f"{where}: a box must be four numbers: left, top, right, bottom", hint=FORMAT)
    left, top, right, bottom = (float(v) for v in numbers)
    if not (left < right and top < bottom):
        raise nf.InputError(f"{where}: box {list(numbers)} is empty", hint="left < right and top < bottom")
    return left, top, right, bottom


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _from_csv(path: Path, text: str) -> dict[str, Truth]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        return _from_rows(path, reader)
    except csv.Error as error:
        raise nf.InputError(f"{path}: line {reader.line_num + 1}: {error}", hint=FORMAT) from error


def _from_rows(path: Path, reader: csv.DictReader[str]) -> dict[str, Truth]:
    columns = set(reader.fieldnames or ())
    allowed = {"picture", *COLUMNS, "class"}
    boxed = set(COLUMNS) <= columns
    if "picture" not in columns or columns - allowed or not (boxed or columns == {"picture", "class"}):
        raise nf.InputError(
            f"{path}: the heading must be picture,left,top,right,bottom,class", hint="class may be left out"
        )
    classes: dict[str, list[int | str]] = {}
    boxes: dict[str, list[Box]] = {}
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        name = row["picture"]
        if not name or None in row or None in row.values():
            raise nf.InputError(f"{where}: must have one value for every column")
        boxes.setdefault(name, [])
        if boxed and any(row[c] for c in COLUMNS):
            boxes[name].append(_box(where, _numbers(where, [row[c] for c in COLUMNS])))
        given = (row.get("class") or "").strip()
        if given:
            classes.setdefault(name, []).append(int(given) if DIGITS.fullmatch(given) else given)
    return {name: Truth(tuple(classes.get(name, ())), tuple(own)) for name, own in boxes.items()}


def _numbers(where: str, texts: Iterable[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError as error:
        raise nf.InputError(f"{where}: a box must be four numbers: left, top, right, bottom") from error
