"""Small files that are replaced as a whole, and one writer at a time."""

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

#: Seconds between tries for a lock that is held for long.
LOCK_POLL = 0.05


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, mode 0600: after a crash there is the old content or the new, never a part."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A link stays one: people keep such files in a folder of dotfiles.
    target = path.resolve()
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def only_one(lock_file: Path) -> Iterator[None]:
    """Hold ``lock_file``, waiting for whoever holds it; the system lets go of it when a process dies."""
    with _opened(lock_file) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@asynccontextmanager
async def only_one_at_length(lock_file: Path) -> AsyncIterator[None]:
    """Hold ``lock_file`` as ``only_one`` does, for work that takes long: waiting for it can be cancelled."""
    with _opened(lock_file) as descriptor:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_POLL)
        yield


@contextmanager
def _opened(lock_file: Path) -> Iterator[int]:
    lock_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
