"""Lists as editors and other systems write them."""

import json

import pytest

from diffharmony.dataset.pairs import read_list
from diffharmony.tests.made.training import make_pairs


@pytest.mark.parametrize("slash", ["/", "\\"])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n \n" + text.replace("\n", "\n\n  "),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "as on Windows"],
)
def test_are_read_however_they_are_written(tmp_path, written, slash):
    make_pairs(tmp_path)
    names = (tmp_path / "IHD_train.txt").read_text(encoding="utf-8").replace("/", slash).splitlines()
    objects = [json.dumps({"file_name": name}) for name in names]
    for file, lines in (("other.txt", names), ("other.jsonl", objects)):
        (tmp_path / file).write_bytes(written("\n".join(lines) + "\n").encode())
        assert read_list(tmp_path, file) == read_list(tmp_path, "IHD_train.txt")


def test_names_may_hold_what_other_systems_break_lines_at(tmp_path):
    make_pairs(tmp_path)
    for folder, name in (("composite_images", "b\u2028\x85_1_1.png"), ("masks", "b\u2028\x85_1.png"), ("real_images", "b\u2028\x85.png")):
        next((tmp_path / "HCOCO" / folder).iterdir()).rename(tmp_path / "HCOCO" / folder / name)
    (tmp_path / "strange.txt").write_text("HCOCO/composite_images/b\u2028\x85_1_1.png\n", encoding="utf-8")
    assert [pair.real.name for pair in read_list(tmp_path, "strange.txt")] == ["b\u2028\x85.png"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a".encode("utf-16"), "must be text in UTF-8, got something else .* Save it as UTF-8"),
        ("größe".encode("latin-1"), "must be text in UTF-8, got something else"),
        (b'{"file_name": 3}', 'line 1 of .* must be a JSON object with file_name, got .*3'),
        (b"3", "line 1 of .* must be a JSON object with file_name, got '3'"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, message):
    (tmp_path / "list.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path, "list.jsonl")
