"""Files that others read while they are replaced."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from .failure import Failure

__all__ = ["replace_file"]


def replace_file(path: Path, text: str) -> None:
    """Put `text` into the file `path` at once: a reader sees the old text or the new one, whole.

    The file keeps its permissions; a new one gets those that the umask leaves. Raises Failure.
    """
    try:
        # A link stays one: what it names is replaced.
        path = path.resolve()
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode_of(path))
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
