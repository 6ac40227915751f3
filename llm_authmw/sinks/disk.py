"""That what was written is on the disk: the names of files, beside what is in them."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """See that the names of the files in a folder are on the disk: what `fsync` keeps of a file that is new has no name otherwise.

    Raises:
        OSError: they may not be.
    """
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
