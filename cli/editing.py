"""A text in the user's editor: with what to know on top, opened again with the mistakes in it, and never lost."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from cli.output import FAILED, print_error, print_progress

#: Tried in this order where neither $VISUAL nor $EDITOR says which.
_EDITORS = ("sensible-editor", "editor", "nano", "vi")


@dataclass(frozen=True)
class Buffer:
    """What is edited, and how the lines on top of it are written as comments."""

    #: What the file is called: ``t1.plan.yaml``.
    name: str
    text: str
    #: What to know, for people.
    notes: tuple[str, ...]
    #: Begin of a comment line, and what closes the comment, if anything does.
    comment: str
    #: Lines before and after the comment as a whole.
    opening: str = ""
    closing: str = ""

    def with_notes(self, text: str, mistakes: str = "") -> str:
        """Return a text as the editor shows it."""
        return "".join(f"{line}\n" for line in self._head(mistakes)) + text

    def without_notes(self, written: str) -> str:
        """Return what was written, without what we put on top, as far as it is still there."""
        lines = written.split("\n")
        kept = 0
        if self.opening:
            if lines[0].startswith(self.opening):
                ends = (number for number, line in enumerate(lines) if line.rstrip().endswith(self.closing))
                kept = next(ends, -1) + 1
        else:
            while kept < len(lines) and lines[kept].startswith(self.comment.rstrip()):
                kept += 1
        return "\n".join(lines[kept:])

    def height(self, mistakes: str = "") -> int:
        """Return how many lines stand on top."""
        return len(self._head(mistakes))

    def _head(self, mistakes: str) -> list[str]:
        told = [*mistakes.split("\n"), ""] if mistakes else []
        head = [f"{self.comment}{line}".rstrip() for line in (*told, *self.notes)]
        return [*([self.opening] if self.opening else []), *head, *([self.closing] if self.closing else [])]


def edit(buffer: Buffer, mistakes_in: Callable[[str, int], str]) -> str | None:
    """Let the user edit; return the new text, or None if there is nothing to apply: unchanged, or emptied.

    ``mistakes_in(text, lines_above)`` says what is wrong with a text, or nothing. A text with mistakes is opened again,
    with them on top; if it is then left as it is, the command ends, naming the file in which it is kept.
    """
    last, mistakes = buffer.text, ""
    while True:
        try:
            written = buffer.without_notes(_edited(buffer.name, buffer.with_notes(last, mistakes)))
        except EditorFailed as failed:
            wrote = last if failed.left is None else buffer.without_notes(failed.left)
            if wrote.strip() and wrote.strip() != buffer.text.strip():
                print_progress(f"what you wrote is in {keep(buffer.name, wrote)}")
            raise
        if written.strip() == last.replace("\r\n", "\n").strip():
            if mistakes:
                print_error(f"nothing was changed, because of these mistakes:\n{mistakes}")
                print_progress(f"what you wrote is in {keep(buffer.name, written)}")
                raise typer.Exit(FAILED)
            print_progress("nothing was changed: the text is as it was")
            return None
        if not written.strip():
            print_progress("nothing was changed: the text is empty")
            return None
        found = mistakes_in(written, 0)
        if not found:
            return written
        # Where they stand once they stand on top themselves.
        last, mistakes = written, mistakes_in(written, buffer.height(found))


def keep(name: str, text: str) -> Path:
    """Write a text to a file of its own, for the user alone; return which."""
    descriptor, path = tempfile.mkstemp(prefix="podctl-", suffix=f"-{name}")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return Path(path)


@contextmanager
def kept_if_refused(name: str, text: str) -> Iterator[None]:
    """Keep a text in a file, and say in which, if what is done with it fails or is interrupted."""
    try:
        yield
    except BaseException:
        print_progress(f"what you wrote is in {keep(name, text)}")
        raise


def _edited(name: str, text: str) -> str:
    """Return a text as the user's editor left it."""
    path = keep(name, text)
    try:
        command = [*_editor(), str(path)]
        try:
            with _not_interrupted():
                status = subprocess.run(command, check=False).returncode
        except OSError as error:
            raise EditorFailed(f"the editor {command[0]} cannot be started: {error.strerror}; set $EDITOR") from error
        if status:
            raise EditorFailed(
                f"nothing was changed: the editor {command[0]} ended with status {status}", left=_text_in(path)
            )
        return _text_in(path)
    finally:
        path.unlink(missing_ok=True)


def _text_in(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape").replace("\r\n", "\n").removeprefix("\N{BOM}")


@contextmanager
def _not_interrupted() -> Iterator[None]:
    """Leave Ctrl-C to the editor. It inherits no handler of ours, and would inherit it if we ignored the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        if chosen := os.environ.get(variable, "").strip():
            # As a shell would split it: `code --wait`. No shell sees it.
            try:
                return shlex.split(chosen)
            except ValueError as error:
                raise EditorFailed(f"${variable} is {chosen!r}, which is no command: {error}") from error
    for editor in _EDITORS:
        if shutil.which(editor):
            return [editor]
    raise EditorFailed("there is no editor: set $EDITOR to the one you use")


class EditorFailed(Exception):
    """There is no editor, or it went wrong; nothing was changed. ``left``: what it left in the file all the same."""

    def __init__(self, message: str, *, left: str | None = None) -> None:
        super().__init__(message)
        self.left = left
