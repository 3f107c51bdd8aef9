"""Files of ratings, sorted by row into a folder, without ever being in memory as a whole.

DuckDB reads, joins with the codes and sorts, in as much memory as it is given and else on disk.
Several processes share the work: each reads row groups of its own, and writes every rating into
pieces for the process that sorts its user, and for the one that sorts its item.
"""

import itertools
import json
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather

from probmf.data.column import (
    CLOCK,
    DROP,
    NUMBERS,
    TIMES,
    array_kind,
    missing_message,
    plain,
    sentence,
)
from probmf.data.database import ROW, connect, copy, in_words, parquet, parquet_files, quoted
from probmf.data.files import parse_ids
from probmf.data.ids import MUST_BE_KNOWN, factorize, not_whole, not_whole_message, read_ids
from probmf.data.row_files import (
    BATCH,
    SPILLED,
    Slice,
    combine_pairs,
    first_repeat,
    whole_pairs,
    write_manifest,
    write_side,
)
from probmf.data.source import Share, Source
from probmf.data.vocabulary import Vocabulary, in_order
from probmf.processes import ProcessGroup
from probmf.rows.store import OTHER, SIDES, Side

#: Ids in the order of their codes, or None for those with ratings.
type GivenIds = Vocabulary | Sequence[Any] | np.ndarray | None
#: A message from the row that it names first, the number of such rows, and the value there.
type Message = Callable[[int, int, str], str]


def sort_files(
    source: Source,
    folder: Path,
    given: Mapping[Side, GivenIds],
    memory_limit: str,
    group: ProcessGroup,
) -> None:
    """Fill a new folder with the ratings of a source; all processes of the group call it."""
    machines = group.each(platform.node)
    sort = _Sort(source, folder, group, len(set(machines)) > 1)
    with ExitStack() as stack:
        sort.begin(stack, memory_limit, machines.count(machines[group.rank]))
        sort.check_numbers()
        for side in SIDES:
            sort.encode(side, given[side])
        sort.deal_out()
        for side in SIDES:
            sort.write(side)
        sort.finish()


@contextmanager
def _unchanged(source: Source, before: Mapping[str, Any]) -> Iterator[None]:
    """Say of files that changed while they were read just that, whatever it led to."""
    try:
        yield
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        _refuse_changed(source, before, error)
        raise


def _refuse_changed(
    source: Source, before: Mapping[str, Any], trouble: Exception | None = None
) -> None:
    try:
        changed = source.state() != before
    except FileNotFoundError:
        changed = True
    if changed:
        raise ValueError(
            f"{sentence(source.what)} changed while it was read; wait until it is written, and "
            "open it again."
        ) from trouble


class _Sort:
    """A sort in steps that all processes of a group, which may be on several machines, take."""

    def __init__(self, source: Source, folder: Path, group: ProcessGroup, through: bool) -> None:
        self.source, self.folder, self.group, self.through = source, folder, group, through
        self.spilled = folder / SPILLED
        self.alone = group.count == 1
        #: Of each side, the first code of every process, and the number of codes.
        self.bounds: dict[Side, np.ndarray] = {}
        #: The ids of each side; in the first process alone.
        self.vocabularies: dict[Side, Vocabulary] = {}

    def begin(self, stack: ExitStack, memory_limit: str, on_machine: int) -> None:
        """Open the database, in which `source` is this process's share of the files."""
        self.words = partial(in_words, self.folder, memory_limit, self.source, on_machine)

        def work() -> None:
            self.before = self.source.state()
            share = self.source.share(self.group.rank, self.group.count)
            self.schema, self.first_row = share.dataset.schema, share.first
            self.database: Any = stack.enter_context(
                connect(self.folder, memory_limit, rank=self.group.rank, on_machine=on_machine)
            )
            self.database.register("source", share.dataset)
            self.read_directly(share)

        self.step(work)
        stack.enter_context(_unchanged(self.source, self.before))
        facts = [facts[1:] for facts in self.before["files"]]
        self.group.agree("Sizes and times of the files of ratings", json.dumps(facts))

    def read_directly(self, share: Share) -> None:
        """Let DuckDB read Parquet without Arrow, where it sees the same types: it is faster."""
        if not share.rows or not share.uniform or ROW in self.schema.names:
            return
        names = ", ".join(map(quoted, dict.fromkeys(self.source.names)))
        parts = []
        for is_whole, files in itertools.groupby(share.rows, lambda file: len(file[1]) == file[2]):
            if is_whole:
                parts.append(f"SELECT {names} FROM {parquet_files([path for path, *_ in files])}")
                continue
            for path, own, _ in files:
                table = parquet_files([path], numbered=True)
                within = f"{ROW} >= {own.start} AND {ROW} < {own.stop}"
                parts.append(f"SELECT {names} FROM {table} WHERE {within}")
        query = " UNION ALL ".join(parts)
        types = [
            [column[:2] for column in self.database.execute(f"DESCRIBE {table}").fetchall()]
            for table in (query, f"SELECT {names} FROM source")
        ]
        if types[0] == types[1]:
            self.database.unregister("source")
            self.database.execute(f"CREATE VIEW source AS {query}").fetchall()

    def step(self, work: Callable[[], str | None]) -> list[str]:
        """Do a piece of work in all processes; what they tell."""

        def own() -> str:
            with self.words():
                return work() or ""

        return self.group.each(own)

    def by_first(self, work: Callable[[], str | None]) -> str:
        """Do a piece of work in the first process; what it tells."""
        return self.step(lambda: None if self.group.rank else work())[0]

    def check_numbers(self) -> None:
        """Refuse columns of numbers and times that hold others, or none, or too large ones."""
        broken: dict[str, tuple[str, str, str]] = {}
        for name in self.source.names[2:]:
            own = self.schema.field(name).type
            kinds = NUMBERS | (TIMES - {CLOCK} if name == self.source.time else set())
            if array_kind(pa.array([], own)) not in kinds:
                noun = "numbers or dates" if name == self.source.time else "numbers"
                raise TypeError(f"Column {name!r} must hold {noun}, but is of type {own}.")
            column = quoted(name)
            broken[f"{column} IS NULL"] = (name, "missing", DROP)
            if pa.types.is_floating(own):
                broken[f"NOT isfinite({column})"] = (name, "not finite", DROP)
            if name == self.source.weight:
                advice = "zero leaves a rating out of the fit."
                broken[f"{column} < 0"] = (name, "negative", advice)
        # All at once: it is the whole file that is read.
        counts = ", ".join(f"count(*) FILTER ({condition})" for condition in broken)
        told = self.step(
            lambda: json.dumps(self.row(f"SELECT {counts} FROM source")) if broken else "[]"
        )
        counted = zip(*map(json.loads, told), strict=True)
        for (condition, (name, state, advice)), found in zip(broken.items(), counted, strict=True):
            if any(found):
                row, count, _ = self.first(name, condition)
                raise ValueError(
                    f"Column {name!r} is {state} in row {row} ({count:,} such "
                    f"row{'s'[: count > 1]}); {advice}"
                )

    def row(self, query: str) -> tuple[Any, ...]:
        """The one row of the answer to a query."""
        (found,) = self.database.execute(query).fetchall()
        return tuple(found)

    def first(self, name: str, condition: str) -> tuple[int, int, str]:
        """The first row, from 0, that a condition holds for, how many do, and a column there."""

        def work() -> str:
            self.database.execute("SET preserve_insertion_order = true").fetchall()
            numbered = "SELECT *, row_number() OVER () AS row_of_share FROM source"
            value = f"left(CAST(min_by({quoted(name)}, row_of_share) AS VARCHAR), 40)"
            row, count, value = self.row(
                f"SELECT min(row_of_share), count(*), {value} FROM ({numbered}) WHERE {condition}"
            )
            return json.dumps([count and self.first_row + row - 1, count, value])

        found = [own for own in map(json.loads, self.step(work)) if own[1]]
        return found[0][0], sum(own[1] for own in found), found[0][2]

    def encode(self, side: Side, given: GivenIds) -> None:
        """Give the ids of one side their codes, the same in all processes, as a table."""
        name = getattr(self.source, side)
        what, column = f"column {name!r}", quoted(name)

        def collect() -> str:
            query = f"SELECT {column} AS id, count(*) AS n FROM source GROUP BY ALL"
            found = self.database.sql(query).to_arrow_table()
            self.show(f"{side}-ids-{self.group.rank}", found)
            return str(len(found))

        if not any(map(int, self.step(collect))):
            raise ValueError(
                f"{sentence(self.source.what)} has no rows; at least one rating is needed."
            )

        def assign() -> str:
            found = pa.concat_tables(
                [self.shown(f"{side}-ids-{rank}") for rank in range(self.group.count)]
            )
            if not self.alone:
                self.database.register("found", found)
                query = "SELECT id, CAST(sum(n) AS BIGINT) AS n FROM found GROUP BY id"
                found = self.database.sql(query).to_arrow_table()
            ids = found["id"].combine_chunks()
            ids = ids if self.source.is_parquet else parse_ids(ids)
            try:
                vocabulary, codes = _codes(ids, side, given, what, name)
            except _UnusableError as error:
                self.unusable = error.message
                self.show("unusable", found.filter(pa.array(error.marks)))
                return "unusable"
            self.vocabularies[side] = vocabulary
            ratings = np.zeros(len(vocabulary), np.int64)
            np.add.at(ratings, codes, np.asarray(found["n"]))
            bounds = _equal_shares(ratings, self.group.count)
            np.save(self.spilled / f"{side}-bounds.npy", bounds)
            part = np.searchsorted(bounds[1:-1], codes, "right").astype(np.int32)
            self.show(f"{side}-codes", pa.table({"id": found["id"], "code": codes, "part": part}))
            return ""

        if self.by_first(assign):
            self.database.register("unusable", self.shown("unusable"))
            where = f"{column} IS NULL OR {column} IN (SELECT id FROM unusable)"
            place = self.first(name, where)
            raise ValueError(self.by_first(lambda: self.unusable(*place)))

        def take() -> None:
            self.bounds[side] = np.load(self.spilled / f"{side}-bounds.npy")
            self.database.register("codes", self.shown(f"{side}-codes"))
            # A table of DuckDB's own is joined faster than one of Arrow's.
            self.database.execute(f"CREATE TABLE {side}_codes AS SELECT * FROM codes").fetchall()
            self.database.unregister("codes")

        self.step(take)

    def show(self, name: str, table: pa.Table) -> None:
        """Write a table for the other processes."""
        pa.feather.write_feather(table, self.spilled / f"{name}.arrow", "uncompressed")

    def shown(self, name: str) -> pa.Table:
        """Read a table that a process has written."""
        return pa.feather.read_table(self.spilled / f"{name}.arrow", memory_map=False)

    def deal_out(self) -> None:
        """Write this process's ratings, coded, into pieces for the processes that sort them."""
        source, own = self.source, self.group.rank
        columns = {f"{side}": f"{side}s.code" for side in SIDES}
        rating = "1.0" if source.rating is None else quoted(source.rating)
        columns["rating"] = f"CAST({rating} AS DOUBLE)"
        if source.weight is not None:
            columns["weight"] = f"CAST({quoted(source.weight)} AS DOUBLE)"
        if source.time is not None:
            columns["time"] = quoted(source.time)
        if not self.alone:
            columns |= {"item_part": "items.part", "part": "users.part"}
        joins = " ".join(
            f"JOIN {side}_codes AS {side}s ON source.{quoted(getattr(source, side))} = {side}s.id"
            for side in SIDES
        )
        chosen = ", ".join(f"{value} AS {name}" for name, value in columns.items())
        coded = f"SELECT {chosen} FROM source {joins}"

        def work() -> None:
            # DuckDB sorts its own files in less memory than what comes through Arrow.
            if self.alone:
                copy(self.database, coded, self.spilled / "coded.parquet")
                return
            of_users = self.spilled / f"user-{own}"
            copy(self.database, coded, of_users, by="part")
            if not any(of_users.iterdir()):
                return
            pieces = parquet(of_users, "*/*.parquet")
            names = ", ".join(self.columns("item"))
            query = f"SELECT {names}, item_part AS part FROM {pieces}"
            copy(self.database, query, self.spilled / f"item-{own}", by="part")

        self.step(work)

    def columns(self, side: Side) -> list[str]:
        """Names of the columns that one side's pieces have, in the order of sorting."""
        further = {
            "weight": self.source.weight,
            "time": self.source.time if side == "user" else None,
        }
        present = [name for name, column in further.items() if column is not None]
        return [side, OTHER[side], "rating", *present]

    def pieces(self, side: Side) -> str:
        """Ratings that this process sorts, as a table in SQL."""
        if self.alone:
            return parquet(self.spilled, "coded.parquet")
        written = parquet(self.spilled, f"{side}-*/*/*.parquet", by_folder=True)
        return f"(SELECT * FROM {written} WHERE part = {self.group.rank})"

    def write(self, side: Side) -> None:
        """Sort this process's range of a side's rows, and write them into its slice."""
        own = self.slice(side)

        def work() -> str:
            try:
                write_side(self.folder, side, own, self.blocks(side))
            except _RepeatedError as error:
                return json.dumps(error.pair)
            return ""

        repeated = next(filter(None, self.step(work)), None)
        if repeated is not None:
            raise ValueError(self.by_first(lambda: self.repeated_message(json.loads(repeated))))
        # Nobody reads them any more; that makes room for the next side.
        shutil.rmtree(self.spilled / f"{side}-{self.group.rank}", ignore_errors=True)

    def slice(self, side: Side) -> Slice:
        """Which rows of a side this process writes, and from which place on."""
        bounds, rank = self.bounds[side].tolist(), self.group.rank
        codes, num_codes = range(bounds[rank], bounds[rank + 1]), bounds[-1]
        if self.alone:
            return Slice(codes, num_codes)
        weighted = self.source.weight is not None
        counting = "count(*) FILTER (weight > 0)" if weighted else "count(*)"
        pairs = self.pieces(side)
        if self.source.duplicates != "error":
            weight = "max(weight)" if weighted else "1"
            pairs = f"(SELECT {weight} AS weight FROM {pairs} GROUP BY user, item)"
        told = self.step(lambda: json.dumps(self.row(f"SELECT count(*), {counting} FROM {pairs}")))
        all_of, those = zip(*map(json.loads, told), strict=True)
        return Slice(
            codes, num_codes, sum(all_of[:rank]), sum(those[:rank]), (sum(all_of), sum(those)),
            self.through,
        )  # fmt: skip

    def blocks(self, side: Side) -> Iterator[dict[str, np.ndarray]]:
        """The ratings of this process's range of a side, sorted, piece by piece."""
        names, policy = self.columns(side), self.source.duplicates
        # By all columns, so that rows of one pair are added up in the same order by any threads.
        order = ", ".join(names[:2] if policy == "error" else names)
        query = f"SELECT {', '.join(names)} FROM {self.pieces(side)} ORDER BY {order}"
        for columns in whole_pairs(self.database.sql(query).to_arrow_reader(BATCH)):
            repeated = first_repeat(columns)
            if repeated is not None and policy == "error":
                raise _RepeatedError([int(columns[name][repeated]) for name in SIDES])
            if repeated is not None:
                columns = combine_pairs(columns, mean=policy == "mean")
            yield columns

    def repeated_message(self, pair: Sequence[int]) -> str:
        """Message about a pair that is there twice; by the first process."""
        user, item = (
            plain(self.vocabularies[side].ids[code]) for side, code in zip(SIDES, pair, strict=True)
        )
        return (
            f"User {user!r} and item {item!r} occur together in several rows. Choose what a "
            "repeated pair means: duplicates='mean' averages the ratings, 'sum' adds them."
        )

    def finish(self) -> None:
        """Write the manifest."""

        def work() -> None:
            _refuse_changed(self.source, self.before)
            write_manifest(self.folder, self.vocabularies, self.before)

        self.by_first(work)


class _RepeatedError(Exception):
    """A pair of codes occurs twice."""

    def __init__(self, pair: list[int]) -> None:
        self.pair = pair


class _UnusableError(Exception):
    """Ids that a side can't have: marks of them, and what to say."""

    def __init__(self, marks: np.ndarray, message: Message) -> None:
        self.marks, self.message = marks, message


def _codes(
    ids: pa.Array, side: Side, given: GivenIds, what: str, name: str
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of one side, and the codes of the different ids."""
    floating = pa.types.is_floating(ids.type)
    missing = np.asarray(pc.is_null(ids, nan_is_null=floating))
    if missing.any():
        raise _UnusableError(
            missing, lambda row, count, _: missing_message(what, f"row {row}", count, MUST_BE_KNOWN)
        )
    if floating and (broken := not_whole(np.asarray(ids))).any():
        number = np.asarray(ids).dtype.type
        raise _UnusableError(
            broken, lambda row, _, value: not_whole_message(number(value), row, what)
        )
    if given is None:
        return Vocabulary.from_values(ids, side, what=what, column=name)
    vocabulary = in_order(given, side, name)
    codes = vocabulary.encode(ids, unknown="flag", what=what)
    if (unknown := codes < 0).any():
        others, _ = factorize(read_ids(ids.filter(pa.array(unknown)), what))
        listed = [plain(value) for value in others.to_numpy()]
        raise _UnusableError(
            unknown, lambda row, count, _: vocabulary.unknown_message(listed, row, count, what)
        )
    return vocabulary, codes


def _equal_shares(ratings: np.ndarray, count: int) -> np.ndarray:
    """Bounds of ranges of rows that have as many ratings as each other, as near as can be."""
    middle = np.cumsum(ratings) - ratings / 2
    bounds = np.searchsorted(middle, np.arange(count + 1) * ratings.sum() / count)
    bounds[-1] = len(ratings)
    return bounds
