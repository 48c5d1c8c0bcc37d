"""Research notes: read from the user's files, cut into passages, ranked against a question.

Notes are Markdown, text or PDF.  A passage is a few paragraphs with the place it stands at, so that a hypothesis can
cite it.  Ranking is BM25 (Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"; the
variant is Lucene's) by the library `bm25s`: words are compared, not meanings, without case and plural endings.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

MOST_TEXT_BYTES = 5_000_000
"""A text file that is larger is left out."""
MOST_PDF_BYTES = 50_000_000
"""A PDF that is larger is left out."""
MOST_PAGES = 400
"""Pages of one PDF that are read."""
MOST_FILES = 500
"""Files that are read."""
PASSAGE_CHARACTERS = 900
"""Length at which a passage is full; a longer paragraph is cut at the ends of lines or sentences."""
SHORT_CHARACTERS = 160
"""A passage that is shorter takes in the paragraph that follows."""
_WILD = re.compile(r"[*?\[]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A piece of the research notes."""

    place: str
    """Where it stands: `notes/lr.md:12` (file and line) or `paper.pdf p. 3`."""
    text: str
    """What it says."""


class Library:
    """Passages, and what could not be read.

    Args:
        passages: in the order of files and of places within them.
        notes: for each file or pattern that could not be used, why, in one sentence.
    """

    def __init__(self, passages: Sequence[Passage] = (), *, notes: Sequence[str] = ()):
        self.passages = tuple(passages)
        self.notes = tuple(notes)

    def search(self, query: str, *, count: int) -> tuple[Passage, ...]:
        """The passages that share words with the query, best first, at most `count`; ties in the order of the files.

        The same passages and query give the same answer.
        """
        if not self.passages:
            return ()
        words = _words([query])[0]
        if not words or self._index is None:
            return ()
        scores = self._index.get_scores(words).tolist()
        ranked = sorted((-score, number) for number, score in enumerate(scores) if score > 0)
        return tuple(self.passages[number] for _, number in ranked[:count])

    @cached_property
    def _index(self) -> Any:
        """The BM25 index; None where there is no word in any passage."""
        corpus = _words([f"{passage.place} {passage.text}" for passage in self.passages])
        if not any(corpus):
            return None
        index = _bm25s().BM25(method="lucene")
        index.index(corpus, show_progress=False)
        return index


def read_library(patterns: Sequence[str], *, folder: Path) -> Library:
    """Read the files that glob patterns name, relative to a folder (`**` for any depth, `~` for the home folder).

    A pattern may lead out of the folder, by `..`, absolutely, or through a link that it names: that is the user's own
    wish.  A link that a wildcard comes upon is followed only where it stays below the folder before the wildcard, so
    that a downloaded collection cannot pull in other files.  Hidden files need to be named.  Nothing is raised: what
    cannot be read stands in `Library.notes`.
    """
    passages: list[Passage] = []
    notes: list[str] = []
    for path in _files(patterns, folder=folder, notes=notes):
        name = _name(path, folder=folder)
        try:
            read = _read_pdf if path.suffix.lower() == ".pdf" else _read_text
            passages += read(path, name=name, notes=notes)
        except OSError as fault:
            notes.append(f"{name} cannot be read: {fault.strerror or fault}")
    return Library(passages, notes=notes)


def _files(patterns: Sequence[str], *, folder: Path, notes: list[str]) -> list[Path]:
    """The files in the order of the patterns, and by name within one; none twice."""
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = _matches(pattern, folder=folder, notes=notes)
        if not matches:
            notes.append(f"no file matches {pattern!r} in {folder.name or folder}")
        for path in matches:
            found.setdefault(path.resolve(), path)
    if len(found) > MOST_FILES:
        notes.append(f"of {len(found)} files of notes only the first {MOST_FILES} are read")
    return list(found.values())[:MOST_FILES]


def _matches(pattern: str, *, folder: Path, notes: list[str]) -> list[Path]:
    whole = os.path.join(folder, os.path.expanduser(pattern))
    wild = _WILD.search(whole, len(str(folder)) if whole.startswith(str(folder)) else 0)
    if wild is None:
        return [Path(whole)] if os.path.isfile(whole) else []
    start = os.path.dirname(whole[: wild.start()])
    escaped = glob.escape(start) + whole[len(start) :]
    root = Path(start).resolve()
    matches = []
    for path in map(Path, sorted(glob.glob(escaped, recursive=True))):
        if path.is_file() and path.resolve().is_relative_to(root):
            matches.append(path)
        elif path.is_file():
            notes.append(f"{path.name} is a link out of its folder and was left out; name it to have it read")
    return matches


def _name(path: Path, *, folder: Path) -> str:
    """The file as it is cited: relative to the folder, else by its own folder and name."""
    absolute, home = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    if absolute.is_relative_to(home):
        return absolute.relative_to(home).as_posix()
    return "/".join(absolute.parts[-2:])


# -------------------------------------------------------------------------------------------------------------- reading
def _read_text(path: Path, *, name: str, notes: list[str]) -> list[Passage]:
    if _is_too_large(path, MOST_TEXT_BYTES, name=name, notes=notes):
        return []
    data = path.read_bytes()
    if b"\0" in data:
        notes.append(f"{name} is not a text file and was left out")
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append(f"{name} is not UTF-8 text and was left out; save it as UTF-8")
        return []
    return [Passage(place=f"{name}:{line}", text=piece) for line, piece in passages_of(text)]


def _read_pdf(path: Path, *, name: str, notes: list[str]) -> list[Passage]:
    if _is_too_large(path, MOST_PDF_BYTES, name=name, notes=notes):
        return []
    try:
        import pypdf
    except ImportError:
        notes.append(f"{name} was left out: reading PDF needs `pip install lightning-autoresearch[literature]`")
        return []
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    passages: list[Passage] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = pypdf.PdfReader(path)
            if reader.is_encrypted and not reader.decrypt(""):
                notes.append(f"{name} is encrypted and was left out")
                return []
            if len(reader.pages) > MOST_PAGES:
                notes.append(f"{name}: only the first {MOST_PAGES} of {len(reader.pages)} pages are read")
            for number, page in zip(range(1, MOST_PAGES + 1), reader.pages, strict=False):
                pieces = passages_of(page.extract_text())
                passages += [Passage(place=f"{name} p. {number}", text=piece) for _, piece in pieces]
    except Exception as fault:  # a PDF can be broken in more ways than pypdf has errors for
        notes.append(f"{name} is not a PDF that can be read ({type(fault).__name__}); what came before is kept")
    else:
        if not passages:
            notes.append(f"{name} has no text: a scan has to be recognised first")
    return passages


def _is_too_large(path: Path, most: int, *, name: str, notes: list[str]) -> bool:
    size = path.stat().st_size
    if size > most:
        notes.append(f"{name} has {size / 1e6:.1f} MB and was left out; up to {most / 1e6:.0f} MB are read")
    return size > most


def passages_of(text: str) -> Iterator[tuple[int, str]]:
    """The passages of a text with the line they begin at, counted from 1.

    Paragraphs are what blank lines separate.  A short one goes with the one that follows, but a Markdown heading always
    begins a passage; a long one is cut.
    """
    start, held = 1, ""
    for line, paragraph in _paragraphs(text):
        heading = paragraph.startswith("#") and not held.rpartition("\n")[2].startswith("#")
        if held and (heading or len(held) + 1 + len(paragraph) > PASSAGE_CHARACTERS):
            yield start, held
            held = ""
        start, held = (start, f"{held}\n{paragraph}") if held else (line, paragraph)
        if len(held) > PASSAGE_CHARACTERS:
            yield from _cut(start, held)
            held = ""
        elif len(held) >= SHORT_CHARACTERS:
            yield start, held
            held = ""
    if held:
        yield start, held


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """The paragraphs with the line they begin at; a line ends as editors count it, at a line feed and nowhere else."""
    lines: list[str] = []
    start = 1
    for number, line in enumerate((*text.split("\n"), ""), start=1):
        if line.strip():
            start = start if lines else number
            lines.append(" ".join(line.splitlines()).rstrip())
        elif lines:
            yield start, "\n".join(lines)
            lines = []


def _cut(start: int, text: str) -> Iterator[tuple[int, str]]:
    """Pieces of at most `PASSAGE_CHARACTERS`, with their lines; cut at lines and sentences, else in the word."""
    begin, line = 0, start
    while len(text) - begin > PASSAGE_CHARACTERS:
        ends = [end.end() for end in _SENTENCE_END.finditer(text, begin, begin + PASSAGE_CHARACTERS)]
        end = ends[-1] if ends and ends[-1] > begin else begin + PASSAGE_CHARACTERS
        yield line, text[begin:end].strip()
        line += text.count("\n", begin, end)
        begin = end
    if rest := text[begin:].strip():
        yield line, rest


# -------------------------------------------------------------------------------------------------------------- ranking
def _words(texts: Sequence[str]) -> list[list[str]]:
    """The words that count of each text: two letters or more, cut at dots and underscores, no common ones."""
    words: list[list[str]] = _bm25s().tokenize(
        list(texts),
        token_pattern=r"(?u)[^\W_]{2,}",
        stopwords="english",
        stemmer=lambda tokens: [_singular(token) for token in tokens],
        return_ids=False,
        show_progress=False,
    )
    return words


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _bm25s() -> Any:
    """The library, imported late (0.4 s) and made quiet."""
    import bm25s  # type: ignore[import-untyped]

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
