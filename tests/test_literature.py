"""Research notes: reading, places, ranking."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lightning_autoresearch import literature
from lightning_autoresearch.literature import PASSAGE_CHARACTERS, Library, Passage, passages_of, read_library

LR = """# Learning rate

Small transformers like a peak learning rate between 0.002 and 0.01 when the batch is small, and a warm-up of a few
per cent of all steps keeps the first updates from diverging.

Weight decay hardly matters in short runs: what it changes needs many thousand steps to be seen, as several authors
found when they compared schedules of different lengths with everything else kept equal.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "lr.md").write_text(LR)
    (tmp_path / "notes" / "norm.txt").write_text("RMS norm is cheaper than layer norm and about as good.\n")
    return tmp_path


def written_pdf(path: Path, pages: list[str], *, password: str | None = None) -> None:
    """A PDF with one line of text on each page."""
    import pypdf
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(width=400, height=400)
        font = DictionaryObject(
            {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1")}
            | {NameObject("/BaseFont"): NameObject("/Helvetica")}
        )
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = stream
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)


def test_a_passage_is_cited_by_file_and_line(folder):
    library = read_library(["notes/*.md"], folder=folder)
    assert [passage.place for passage in library.passages] == ["notes/lr.md:1", "notes/lr.md:6"]
    assert library.passages[1].text.startswith("Weight decay hardly matters")
    assert library.notes == ()


def test_a_heading_goes_with_the_paragraph_that_follows():
    (start, text), *_ = passages_of("# Title\n\nWhat it is about.\n")
    assert (start, text) == (1, "# Title\nWhat it is about.")


def test_a_heading_begins_a_passage():
    text = "# One\n\n## Part\n\nFirst.\n\n# Two\n\nSecond.\n"
    assert list(passages_of(text)) == [(1, "# One\n## Part\nFirst."), (7, "# Two\nSecond.")]


def test_a_long_paragraph_is_cut_and_every_piece_knows_its_line():
    text = "\n".join(f"Sentence number {number} of a long paragraph." for number in range(1, 101))
    pieces = list(passages_of(text))
    assert len(pieces) > 3
    assert all(len(piece) <= PASSAGE_CHARACTERS for _, piece in pieces)
    for line, piece in pieces:
        assert piece.startswith(f"Sentence number {line} ")
    assert sum(piece.count("Sentence") for _, piece in pieces) == 100


def test_a_paragraph_without_any_end_is_cut_all_the_same():
    pieces = list(passages_of("x" * 5000))
    assert "".join(piece for _, piece in pieces) == "x" * 5000
    assert max(len(piece) for _, piece in pieces) <= PASSAGE_CHARACTERS


def test_the_best_match_comes_first_whatever_case_and_plural(folder):
    library = read_library(["notes/*"], folder=folder)
    assert library.search("Which LEARNING RATES with warm-up?", count=2)[0].place == "notes/lr.md:1"
    assert library.search("model.init_args.weight_decay", count=1)[0].place == "notes/lr.md:6"
    assert library.search("norms", count=5)[0].place == "notes/norm.txt:1"


def test_what_shares_no_word_is_not_found(folder):
    library = read_library(["notes/*"], folder=folder)
    assert library.search("zebra", count=5) == ()
    assert library.search("the of and", count=5) == ()
    assert Library().search("anything", count=5) == ()
    assert Library([Passage(place="a:1", text="?!")]).search("anything", count=5) == ()


def test_searching_twice_gives_the_same_order_and_prints_nothing(folder, capfd):
    many = [Passage(place=f"n.md:{number}", text="equal words") for number in range(50)]
    first, second = (Library(many).search("equal words", count=10) for _ in range(2))
    assert first == second == tuple(many[:10])
    assert capfd.readouterr() == ("", "")


def test_a_pattern_without_a_match_is_noted(folder):
    assert read_library(["papers/*.pdf"], folder=folder).notes == (f"no file matches 'papers/*.pdf' in {folder.name}",)


def test_a_file_that_two_patterns_match_is_read_once(folder):
    library = read_library(["notes/lr.md", "notes/*.md"], folder=folder)
    assert len(library.passages) == 2


def test_an_absolute_pattern_leads_out_of_the_folder_and_is_cited_without_the_way_there(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.md").write_text("A note from elsewhere.")
    library = read_library([f"{elsewhere}/*.md"], folder=folder)
    assert [passage.place for passage in library.passages] == [f"{elsewhere.name}/x.md:1"]


def test_a_link_out_of_its_folder_is_not_followed_by_a_wildcard_but_by_name(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("private") / "diary.md"
    secret.write_text("Dear diary.")
    (folder / "notes" / "link.md").symlink_to(secret)
    library = read_library(["notes/*.md"], folder=folder)
    assert not any("diary" in passage.text for passage in library.passages)
    assert library.notes == ("link.md is a link out of its folder and was left out; name it to have it read",)
    assert read_library(["notes/link.md"], folder=folder).passages[0].text == "Dear diary."


def test_a_linked_folder_of_notes_that_the_pattern_names_is_read(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("shared")
    (elsewhere / "a.md").write_text("A shared note.")
    (folder / "shared").symlink_to(elsewhere)
    assert read_library(["shared/*.md"], folder=folder).passages[0].place == "shared/a.md:1"


def test_a_folder_whose_name_looks_like_a_pattern_is_no_pattern(tmp_path):
    home = tmp_path / "run [1]"
    home.mkdir()
    (home / "a.md").write_text("A note.")
    assert read_library(["*.md"], folder=home).passages[0].place == "a.md:1"
    assert read_library(["a.md"], folder=home).passages[0].place == "a.md:1"


def test_binary_large_and_wrongly_encoded_files_are_noted_and_left_out(folder, monkeypatch):
    monkeypatch.setattr(literature, "MOST_TEXT_BYTES", 100)
    (folder / "a.txt").write_bytes(b"\x7fELF\0\1")
    (folder / "b.txt").write_bytes("Gr\xfc\xdfe".encode("latin-1"))
    (folder / "c.txt").write_text("x" * 101)
    library = read_library(["*.txt"], folder=folder)
    assert library.passages == ()
    assert library.notes == (
        "a.txt is not a text file and was left out",
        "b.txt is not UTF-8 text and was left out; save it as UTF-8",
        "c.txt has 0.0 MB and was left out; up to 0 MB are read",
    )


def test_a_pipe_is_not_opened(folder):
    os.mkfifo(folder / "notes" / "pipe.md")
    assert len(read_library(["notes/*.md"], folder=folder).passages) == 2


def test_more_files_than_are_read_are_noted(folder, monkeypatch):
    monkeypatch.setattr(literature, "MOST_FILES", 1)
    library = read_library(["notes/*"], folder=folder)
    assert {passage.place.split(":")[0] for passage in library.passages} == {"notes/lr.md"}
    assert library.notes == ("of 2 files of notes only the first 1 are read",)


def test_a_pdf_is_cited_by_page(folder):
    written_pdf(folder / "paper.pdf", ["Momentum helps.", "So does rest."])
    library = read_library(["*.pdf"], folder=folder)
    assert [(one.place, one.text) for one in library.passages] == [
        ("paper.pdf p. 1", "Momentum helps."),
        ("paper.pdf p. 2", "So does rest."),
    ]
    assert library.search("momentum", count=1)[0].place == "paper.pdf p. 1"


def test_a_pdf_without_its_reader_is_noted_with_the_way_out(folder, monkeypatch):
    written_pdf(folder / "paper.pdf", ["Momentum helps."])
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (note,) = read_library(["*.pdf"], folder=folder).notes
    assert note == "paper.pdf was left out: reading PDF needs `pip install lightning-autoresearch[literature]`"


def test_a_broken_pdf_is_noted(folder):
    written_pdf(folder / "whole.pdf", ["Momentum helps."])
    (folder / "cut.pdf").write_bytes((folder / "whole.pdf").read_bytes()[:100])
    (folder / "no.pdf").write_text("not a PDF at all")
    library = read_library(["cut.pdf", "no.pdf"], folder=folder)
    assert library.passages == ()
    assert [note.split(" (")[0] for note in library.notes] == [
        "cut.pdf is not a PDF that can be read",
        "no.pdf is not a PDF that can be read",
    ]


def test_an_encrypted_pdf_is_noted(folder):
    written_pdf(folder / "locked.pdf", ["Momentum helps."], password="open sesame")
    library = read_library(["*.pdf"], folder=folder)
    assert library.passages == ()
    assert library.notes == ("locked.pdf is encrypted and was left out",)


def test_a_pdf_of_pictures_is_noted(folder):
    written_pdf(folder / "scan.pdf", [""])
    assert read_library(["*.pdf"], folder=folder).notes == ("scan.pdf has no text: a scan has to be recognised first",)


def test_only_the_first_pages_of_a_long_pdf_are_read(folder, monkeypatch):
    monkeypatch.setattr(literature, "MOST_PAGES", 2)
    written_pdf(folder / "long.pdf", ["One.", "Two.", "Three."])
    library = read_library(["*.pdf"], folder=folder)
    assert [passage.text for passage in library.passages] == ["One.", "Two."]
    assert library.notes == ("long.pdf: only the first 2 of 3 pages are read",)


@pytest.mark.parametrize("odd", ["\x0c", "\u2028", "\x85", "\x1d"])
def test_lines_are_counted_as_editors_count_them(odd):
    text = f"First{odd}line.\n\n{'x' * 200}\n"
    assert list(passages_of(text)) == [(1, "First line." + "\n" + "x" * 200)]
    assert list(passages_of(f"a\r\n{odd}\r\n" + "y" * 200 + "\r\n\r\n" + "z" * 200))[-1] == (5, "z" * 200)


def test_the_pieces_of_a_long_paragraph_know_their_lines():
    lines = [f"line {number} " + "word " * 20 for number in range(1, 400)]
    pieces = list(passages_of("\n".join(["# Title", "", *lines])))
    assert len(pieces) > 40
    for line, text in pieces[1:]:
        assert text.startswith(f"line {line - 2} ")


def test_a_long_text_is_cut_in_linear_time():
    text = "word another thing. " * 100_000
    started = time.process_time()
    assert sum(1 for _ in passages_of(text)) > 2000
    assert time.process_time() - started < 1.0
