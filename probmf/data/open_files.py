"""The folder of sorted ratings of a source: found or made, and mapped into memory."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from probmf.data.files import PathLike
from probmf.data.row_files import (
    MANIFEST,
    in_place_of,
    map_columns,
    map_rows,
    read_manifest,
    read_vocabularies,
    remove_remains,
)
from probmf.data.side_tables import align_features
from probmf.data.sort_files import sort_files
from probmf.data.source import Source
from probmf.data.vocabulary import in_order
from probmf.locks import alone_in
from probmf.processes import ProcessGroup
from probmf.rows.store import RowStore, Side

#: What a repeated pair may mean here: rows that were sorted have no first and no last.
POLICIES = ("error", "mean", "sum")


def open_files(
    source: Source,
    folder: PathLike | None,
    given: Mapping[Side, Any],
    features: Mapping[Side, Any],
    memory_limit: str,
    rebuild: bool,
    shared: bool,
) -> tuple[dict[str, Any], RowStore]:
    """The fields of `Ratings`, and the ratings by row, from a source's folder of sorted ratings.

    The folder (by default one beside the files) is made where it is missing, or with `rebuild`; by
    all processes that have joined if `shared`. The source may be such a folder itself. A folder
    that was made from other files is refused.
    """
    path = Path(source.path)
    own = path.with_name(path.name + ".sorted") if folder is None else Path(folder)
    if folder is None and (path / MANIFEST).is_file():
        if rebuild:
            raise ValueError(
                f"rebuild is True, but {path} is a folder of sorted ratings, which tells nothing "
                "of how to read its files; give the path of the files instead, or rebuild=True to "
                "the split that wrote it."
            )
        own = path
        source = _as_sorted(source, read_manifest(own)["options"])
    # Made by all processes, or where they have no common disk by each that lacks it.
    elif not any(
        _make(source, own, given, memory_limit, rebuild, ProcessGroup(together))
        for together in ([True, False] if shared else [False])
    ) and (made_from := read_manifest(own)) != (now := source.state()):
        differ = [name for name in now if now[name] != made_from.get(name)]
        raise ValueError(
            f"The folder {own} was made from other {' and '.join(differ)} than are given now. "
            "Make it again (rebuild=True), or name another (folder=...)."
        )
    vocabularies = read_vocabularies(own)
    fields: dict[str, Any] = {**map_columns(own)}
    for side, vocabulary in vocabularies.items():
        wanted = given[side]
        if wanted is not None and in_order(wanted, side) != vocabulary:
            raise ValueError(
                f"The folder {own} was made with other ids than {side}s= has. Make it again "
                "(rebuild=True), or name another (folder=...)."
            )
        fields[f"{side}s"] = vocabulary
        if features[side] is not None:
            fields[f"{side}_features"] = align_features(
                features[side], vocabulary, getattr(source, side)
            )
    return fields, map_rows(own)


def _make(
    source: Source,
    folder: Path,
    given: Mapping[Side, Any],
    memory_limit: str,
    rebuild: bool,
    group: ProcessGroup,
) -> bool:
    """Make the folder with the processes of a group, unless it is there; True if it was made.

    Several processes make nothing of CSV, and nothing where they have no common disk.
    """
    with ExitStack() as stack:

        def begin() -> str:
            # The first alone looks for the folder: what others have not looked for, a network's
            # disk does not remember as missing.
            if group.rank or (group.count > 1 and not source.is_parquet):
                return ""
            if not rebuild and (folder / MANIFEST).is_file():
                return ""
            folder.parent.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(alone_in(folder.parent, wait=True)):
                remove_remains(folder)
            # Another process may have made it while this one waited.
            if not rebuild and (folder / MANIFEST).is_file():
                return ""
            return stack.enter_context(in_place_of(folder)).name

        name = group.each(begin)[0]
        if not name:
            return False
        partial = folder.parent / name
        if not all(group.each(lambda: "seen" if partial.is_dir() else "")):
            return False
        sort_files(source, partial, given, memory_limit, group)

        def finish() -> str:
            stack.close()
            return ""

        group.each(finish)
    return True


def _as_sorted(source: Source, options: Mapping[str, Any]) -> Source:
    """The source with the options that its folder was sorted by; other ones are refused."""
    defaults = Source(source.path)
    known: dict[str, Any] = {
        name: tuple(own) if isinstance(own, list) else own for name, own in options.items()
    }
    for name, value in asdict(source).items():
        if name != "path" and value not in (getattr(defaults, name), known[name]):
            raise ValueError(
                f"{name} is {value!r}, but the sorted ratings in {source.path} were made with "
                f"{name}={known[name]!r}. Leave it out, or give the path of the files."
            )
    return replace(source, **(known | {"path": source.path}))
