"""Label files."""

from __future__ import annotations

from pathlib import Path

import naflow_core as nf


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\ufeffcat\ndog\n", encoding="utf-8")
    labels = nf.Labels.read(tmp_path / "labels.txt")
    assert labels.names == ("cat", "dog")
    assert labels.index("cat") == 0


def test_a_class_without_a_name_is_shown_by_its_number() -> None:
    labels = nf.Labels(("cat", "", ", dog", " ,", "n02123045 tabby, cat"))
    shown = [labels.title(i) for i in range(5)]
    assert shown == ["cat", "class 1", "dog", "class 3", "tabby"]
