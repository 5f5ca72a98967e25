"""Rows and broken lines of text files in many encodings."""

from pathlib import Path
from typing import Any

import pytest

from skiplab.data.e2e import E2E
from skiplab.data.files import LocalFiles
from skiplab.data.rows import DataError, Row, check_encoding, read_rows, text_fault

# Their small files share prompts.
pytestmark = pytest.mark.filterwarnings("ignore:.* split are in the .* split too")

FINE = {"p": "a", "r": "b"}


def read(path: Path, content: str | bytes, encoding: str = "utf-8") -> list[tuple[int, Row]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, encoding))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a,b,c", "3 fields where the header has 2: too many"),
        ("a", "1 fields where the header has 2: too few"),
        ('a,"b', "a quote is not closed"),
        ('a,"b" or c', "a quote is not closed, or stands inside"),
        ("a,b\0", "NUL characters"),
    ],
)
def test_a_broken_csv_line_does_not_affect_the_lines_around_it(tmp_path: Path, line: str, fault: str) -> None:
    rows = read(tmp_path / "x.csv", f'p,r\na,b\n{line}\n\n"a","b"\na,b\n')
    assert [row for row in rows if not isinstance(row[1], str)] == [(2, FINE), (5, FINE), (6, FINE)]
    ((number, found),) = [row for row in rows if isinstance(row[1], str)]
    assert number == 3
    assert fault in str(found)


def test_quoted_fields_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    rows = read(tmp_path / "x.csv", 'p,r\r\n"a, b","c ""d""\r\ne"\r\na,b\r\n')
    assert rows == [(2, {"p": "a, b", "r": 'c "d"\r\ne'}), (4, FINE)]


def test_both_sources_of_csvs_refuse_or_skip_broken_lines(tmp_path: Path) -> None:
    for name in ("trainset", "devset", "testset_w_refs"):
        (tmp_path / f"{name}.csv").write_text("mr,ref\nname[A], food[B],x\nname[B],y\n")
    (tmp_path / "test.csv").write_text("mr,ref\nname[B],y\n")
    (tmp_path / "valid.csv").write_text("mr,ref\nname[B],y\n")
    for source in (E2E, LocalFiles):
        columns: dict[str, Any] = {} if source is E2E else {"prompt": "mr", "target": "ref"}
        with pytest.raises(DataError, match=r"set.csv: 1 broken line.* line 2; 3 fields .*data.broken=skip"):
            source(dir=str(tmp_path), **columns).load()
        with pytest.warns(UserWarning, match="line 2; skipped; 3 fields"):
            splits = source(dir=str(tmp_path), broken="skip", **columns).load()
        assert splits["train"].to_list() == [{"prompt": "name[B]", "references": ["y"]}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_text_in_its_encoding_is_read(tmp_path: Path, suffix: str, encoding: str) -> None:
    text = "p,r\ncafé,olé\n" if suffix == ".csv" else '{"p": "café", "r": "olé"}\n'
    rows = read(tmp_path / f"x{suffix}", text.encode(encoding), encoding)
    assert [row for _, row in rows] == [{"p": "café", "r": "olé"}]
    if encoding == "utf-8-sig":
        assert read(tmp_path / f"x{suffix}", text.encode(encoding)) == rows


def test_a_line_in_another_encoding_is_named(tmp_path: Path) -> None:
    rows = read(tmp_path / "x.csv", "p,r\na,b\ncafé,olé\na,b\n".encode("latin-1"))
    assert [(number, isinstance(row, str)) for number, row in rows] == [(2, False), (3, True), (4, False)]
    assert "it is not utf-8; give the file's encoding as data.encoding" in str(rows[1][1])
    with pytest.raises(DataError, match=r"x.csv, line 1: the file begins like UTF-16, .* data.encoding=utf-16, or"):
        read(tmp_path / "x.csv", "p,r\na,b\n".encode("utf-16"))
    for unknown in ("utf-9", "base64"):
        with pytest.raises(ValueError, match=r"data.encoding must be a text encoding"):
            check_encoding(unknown)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (" ", "empty q"),
        ("half \ud83d", "q holds half of a surrogate pair"),
        (["a"], "q must hold a text, found a list"),
        ({"a": 1}, "q must hold a text, found an object"),
        (3, "q must hold a text, found a number"),
        (None, "q must hold a text, found nothing"),
        ("a 😀", None),
    ],
)
def test_a_value_that_is_not_text_is_described(value: object, fault: str | None) -> None:
    assert text_fault("q", value) == fault


def test_damaged_parquet_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.parquet is not a complete Parquet file"):
        read(tmp_path / "x.parquet", b"PAR1 and no more")


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.csv, line 1: the header names the column 'p' twice"):
        read(tmp_path / "x.csv", "p,p\na,b\n")
