"""`replace_file`: a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rnnx.errors import UnsupportedError

__all__ = ["replace_file"]


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a binary file to write, and put it at `path` once all of it is on the disk.

    What is written goes to a temporary file in the same directory, which is synced and then renamed over `path` when
    the ``with`` block ends. Any exception on the way, of the block or of the disk, leaves the old file as it was and
    removes the temporary one. A process that is killed leaves the old file as it was too, and beside it a temporary
    file ``.rnnx-*.tmp`` that may be deleted.

    Parameters
    ----------
    path : str or path-like
        The file to create or replace. A symbolic link stays, and the file it points to is replaced. An old file's
        permissions are kept; a new file gets what the umask leaves.

    Yields
    ------
    file : binary file object
        Open for writing, empty.

    Raises
    ------
    UnsupportedError
        If `path` is there but is no regular file: a directory, a device, a pipe.
    OSError
        If the directory or the disk refuses.

    Examples
    --------
    >>> with replace_file("model.params") as file:
    ...     file.write(data)
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UnsupportedError(f"{target} is not a regular file and cannot be replaced; give the name of a file")
    temporary = target.with_name(f".rnnx-{secrets.token_hex(8)}.tmp")
    file = _create(temporary, target)
    try:
        with file:
            if target.exists():
                shutil.copymode(target, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        # The failure that led here says more than a failure to tidy up after it.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _create(temporary: Path, target: Path) -> BinaryIO:
    """Open a new file for writing; an error names the file that the caller asked for."""
    try:
        return temporary.open("xb")
    except OSError as error:
        error.filename = str(target)
        raise


def _sync_directory(directory: Path) -> None:
    """Make the renaming last through a power failure, where the system can."""
    # Not every system opens or syncs a directory. The file is whole either way, so a refusal is no failure.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
