"""Notes that survive the process that made them: a line each, in a file of its own, which the system has as soon as it is written."""

import os
import time
from pathlib import Path
from typing import Final, NamedTuple


class Note(NamedTuple):
    """One line.

    Attributes:
        at: Monotonic nanoseconds, of a clock that all processes of the machine share.
        words: What was noted.
    """

    at: int
    words: tuple[str, ...]


class Notes:
    """Writes notes of one kind.

    Args:
        folder: Where the files of all processes are.
        kind: What is noted.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._file: Final = os.open(folder / f"{kind}.{os.getpid()}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        os.write(self._file, f"{time.monotonic_ns()} {' '.join(map(str, words))}\n".encode())


def read(folder: Path, kind: str) -> list[Note]:
    """Return the notes of all processes, the oldest first; half a line of one that was killed is none."""
    notes: list[Note] = []
    for path in folder.glob(f"{kind}.*.notes"):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                at, *words = line.split()
                notes.append(Note(int(at), tuple(words)))
    return sorted(notes)
