"""A file is replaced whole or not at all, whatever fails."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rnnx.atomic import replace_file
from rnnx.errors import UnsupportedError

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions, links and signals")

OLD = b"the old checkpoint"
NEW = b"the new checkpoint, which is longer than the old one"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "model.params"
    path.write_bytes(OLD)
    return path


def assert_untouched(path: Path) -> None:
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def write_new(path: Path) -> None:
    with replace_file(path) as file:
        file.write(NEW)


@pytest.mark.parametrize("as_path", [str, Path])
def test_creates_a_file(tmp_path, as_path):
    write_new(as_path(tmp_path / "new.params"))
    assert [path.name for path in tmp_path.iterdir()] == ["new.params"]
    assert (tmp_path / "new.params").read_bytes() == NEW


def test_replaces_a_file(old):
    write_new(old)
    assert old.read_bytes() == NEW
    assert list(old.parent.iterdir()) == [old]


def test_the_old_file_is_there_until_the_block_ends(old):
    with replace_file(old) as file:
        file.write(NEW)
        file.flush()
        assert old.read_bytes() == OLD
    assert old.read_bytes() == NEW


def test_a_name_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_new(Path("model.params"))
    assert (tmp_path / "model.params").read_bytes() == NEW


def test_the_longest_name_a_directory_can_hold(tmp_path):
    path = tmp_path / ("m" * 255)
    write_new(path)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("error", [ValueError("bad weights"), KeyboardInterrupt(), SystemExit(1), OSError(28, "full")])
def test_an_exception_in_the_block(old, error):
    def write_and_fail() -> None:
        with replace_file(old) as file:
            file.write(NEW)
            raise error

    with pytest.raises(type(error)) as caught:
        write_and_fail()
    assert caught.value is error
    assert_untouched(old)


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ValueError, match="bad"), replace_file(tmp_path / "new.params"):
        raise ValueError("bad weights")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_sync_fails(old, monkeypatch, error):
    def failing(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(type(error)):
        write_new(old)
    assert_untouched(old)


def test_rename_fails(old, monkeypatch):
    def failing(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(PermissionError):
        write_new(old)
    assert_untouched(old)


def test_failing_to_tidy_up_does_not_hide_the_cause(old, monkeypatch):
    def failing(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", failing)
    with pytest.raises(ValueError, match="bad weights"), replace_file(old):
        raise ValueError("bad weights")
    assert old.read_bytes() == OLD


def test_data_are_synced_before_the_renaming_and_the_directory_after(old, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def recording_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    write_new(old)
    assert events[:2] == [len(NEW), "rename"]
    if os.name == "posix":
        assert events[2:] == ["directory"]


def test_a_directory_that_cannot_be_synced(old, monkeypatch):
    fsync = os.fsync

    def no_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_directories)
    write_new(old)
    assert old.read_bytes() == NEW


@posix
def test_the_disk_refuses_to_write(old):
    result = run_python(
        """
        import resource
        from rnnx.atomic import replace_file
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with replace_file(sys.argv[1]) as file:
            for _ in range(100):
                file.write(bytes(10_000))
        """,
        old,
    )
    assert result.returncode == 1
    assert b"File too large" in result.stderr
    assert_untouched(old)


@posix
def test_killed_in_the_middle(old):
    result = run_python(
        """
        import os, signal
        from rnnx.atomic import replace_file
        with replace_file(sys.argv[1]) as file:
            file.write(bytes(1_000_000))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        old,
    )
    assert result.returncode == -signal.SIGKILL
    assert old.read_bytes() == OLD
    (left,) = (path for path in old.parent.iterdir() if path != old)
    assert left.match(".rnnx-*.tmp")
    assert left.stat().st_size == 1_000_000


def run_python(code: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    lines = [line.removeprefix(" " * 8) for line in code.splitlines()]
    return subprocess.run(
        [sys.executable, "-c", "import sys\n" + "\n".join(lines), str(path)], capture_output=True, timeout=60
    )


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@posix
@pytest.mark.usefixtures("umask")
def test_a_new_file_gets_what_the_umask_leaves(tmp_path):
    write_new(tmp_path / "new.params")
    assert stat.S_IMODE((tmp_path / "new.params").stat().st_mode) == 0o640


@posix
@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o755])
def test_an_old_file_keeps_its_permissions(old, mode):
    old.chmod(mode)
    write_new(old)
    assert stat.S_IMODE(old.stat().st_mode) == mode


@posix
def test_permissions_hold_before_anything_is_written(old):
    old.chmod(0o600)
    with replace_file(old) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, there):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target.params"
    if there:
        target.write_bytes(OLD)
    link = tmp_path / "link.params"
    link.symlink_to(Path("elsewhere") / "target.params")
    write_new(link)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert not target.is_symlink()
    assert list(target.parent.iterdir()) == [target]


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="not a regular file"):
        write_new(tmp_path)
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_pipe_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UnsupportedError, match="not a regular file"):
        write_new(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_missing_directory_is_an_error_about_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_new(tmp_path / "missing" / "model.params")
    assert caught.value.filename == str(tmp_path / "missing" / "model.params")
