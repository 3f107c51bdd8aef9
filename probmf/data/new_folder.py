"""Folders of sorted ratings that take the place of others only when they are whole."""

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probmf.data.row_files import FILES, MANIFEST

#: Folder of what does not fit in memory while the ratings are sorted.
SPILLED = "spilled"
#: End of the name of a folder that is put aside until another is in its place.
BEFORE = "-before"


def refuse_other_contents(folder: Path) -> None:
    """Refuse to replace what is anything but a folder of sorted ratings, or empty.

    Raises:
        ValueError: If there is a file of that name, or a folder with other files in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder for sorted ratings; name another.")
    others = sorted({path.name for path in folder.iterdir()} - FILES)
    if others:
        raise ValueError(
            f"The folder {folder} holds {others[0]!r}, which is no file of sorted ratings and "
            "would be deleted. Name another folder, which need not be there yet."
        )


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left beside a folder of sorted ratings; see `in_place_of`."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-????????*"):
        ours = left.is_dir() and {path.name for path in left.iterdir()} <= FILES | {SPILLED}
        # What was put aside is the only one there is, unless another has taken its place.
        if ours and (folder.exists() or not left.name.endswith(BEFORE)):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def in_place_of(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of another one, if it is finished with a manifest.

    The other one is whole until the new one is: it is put aside, and back if that fails, and only
    then removed. Where a process is killed between the two, it lies beside as `.NAME-...-before`,
    and an unfinished one as `.NAME-...`; `remove_remains` finds them.
    """
    refuse_other_contents(folder)
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"The sorted ratings can't be written to {folder}: {error.strerror}. Name a folder "
            "elsewhere (folder=)."
        ) from error
    before = partial.with_name(f"{partial.name}{BEFORE}")
    try:
        (partial / SPILLED).mkdir()
        yield partial
        if (partial / MANIFEST).is_file():
            shutil.rmtree(partial / SPILLED, ignore_errors=True)
            partial.chmod(0o755)
            _exchange(partial, folder, before)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exchange(partial: Path, folder: Path, before: Path) -> None:
    """Rename a folder to the name of another, which is put aside and removed."""
    if folder.exists():
        folder.rename(before)
    try:
        partial.rename(folder)
    except OSError:
        if before.exists():
            before.rename(folder)
        raise
    shutil.rmtree(before, ignore_errors=True)
