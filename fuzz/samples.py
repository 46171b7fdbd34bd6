"""`Sample`: one input of a reader, which may be several files that stand together."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Sample", "scratch"]

#: Where a file system stands in memory, on Linux: nothing waits for a disk there.
_MEMORY = Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Sample:
    """Files that are read together.

    Parameters
    ----------
    opened : str
        What is given to rnnx: the name of one of the files, or what several names begin with.
    files : mapping of str to bytes
        The content of each file by its name.
    cell : str, optional
        The cell tree as JSON, for formats that are not read without one.
    """

    opened: str
    files: Mapping[str, bytes]
    cell: str | None = None

    @property
    def size(self) -> int:
        """How many bytes the files have together."""
        return sum(map(len, self.files.values()))

    def having(self, name: str, content: bytes) -> Sample:
        """Return the sample with other content of one file."""
        return dataclasses.replace(self, files={**self.files, name: content})

    def lacking(self, name: str) -> Sample:
        """Return the sample without one file."""
        return dataclasses.replace(self, files={each: data for each, data in self.files.items() if each != name})

    def written(self, folder: Path) -> Path:
        """Write the files, and return the path that is given to rnnx."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.opened


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is removed when the ``with`` block ends."""
    place = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rnnx-fuzz-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
