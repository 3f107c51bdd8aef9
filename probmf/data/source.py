"""Files of ratings, and what their columns mean."""

import csv
import io
import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from probmf.data.column import sentence
from probmf.data.files import (
    common_schema,
    csv_hints,
    csv_options,
    csv_trouble,
    decompressed,
    in_one_line,
    refuse_second_header,
)
from probmf.data.tables import IDS_ELSEWHERE, refuse_doubled, require_columns


def read_schema(path: str) -> pa.Schema:
    """The columns of a Parquet file; one that is none, or not whole, is refused."""
    try:
        return pa.parquet.read_schema(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"The file {path} can't be read as Parquet: {in_one_line(error)}. Write it again, or "
            "take it away."
        ) from error


@dataclass(frozen=True)
class Source:
    """Files of ratings (CSV, Parquet, a folder of Parquet files), and what columns mean."""

    path: str
    user: str = "user"
    item: str = "item"
    rating: str | None = "rating"
    weight: str | None = None
    time: str | None = None
    duplicates: str = "error"
    delimiter: str = ","
    column_names: tuple[str, ...] | None = None

    @property
    def what(self) -> str:
        """Name in messages."""
        return f"the {'folder' if Path(self.path).is_dir() else 'file'} {self.path}"

    @property
    def names(self) -> list[str]:
        """Columns that are read."""
        all_names = (self.user, self.item, self.rating, self.weight, self.time)
        return [name for name in all_names if name is not None]

    @property
    def files(self) -> list[Path]:
        """The files, in order; one at least."""
        path = Path(self.path)
        if not path.is_dir():
            if not path.is_file():
                raise FileNotFoundError(f"There is no file or folder {path}.")
            return [path]
        found = sorted(p for p in path.rglob("*.parquet") if p.is_file())
        if not found:
            raise FileNotFoundError(f"The folder {path} holds no Parquet file (*.parquet).")
        return found

    @property
    def is_parquet(self) -> bool:
        """True for Parquet: of a folder all that is read, else told by the first bytes."""
        if Path(self.path).is_dir():
            return True
        with self.files[0].open("rb") as file:
            return file.read(4) == b"PAR1"

    def state(self) -> dict[str, Any]:
        """The present state of these files, as values for JSON: others differ."""
        files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in self.files]
        own = asdict(self) | {"path": None}
        own["column_names"] = self.column_names and list(self.column_names)
        return {"options": own, "files": [list(facts) for facts in files]}

    def dataset(self) -> pyarrow.dataset.Dataset:
        """The files as one table that is read in pieces; all have the columns that are wanted."""
        paths = [str(path) for path in self.files]
        for path in self.files:
            if not path.stat().st_size:
                raise ValueError(f"The file {path} is empty. Write it again, or take it away.")
        if self.is_parquet:
            schema = common_schema({path: read_schema(path) for path in paths}, self.names)
            found = pyarrow.dataset.dataset(paths, schema, "parquet")
        else:
            refuse_second_header(self.path, self.delimiter, self.column_names)
            try:
                found = pyarrow.dataset.dataset(paths, format=self._csv())
            except pa.ArrowInvalid as error:
                raise ValueError(self.trouble(error)) from error
        refuse_doubled(found.schema.names, self.what)
        hints: Mapping[str, str] = IDS_ELSEWHERE
        if not self.is_parquet:
            hints = csv_hints(self.names, found.schema.names, self.delimiter)
        require_columns(self.names, found.schema.names, self.what, hints=hints)
        return found

    def share(self, rank: int, count: int) -> "Share":
        """Part of files of Parquet that one of several processes reads: whole row groups, in a row.

        Of a single process this is all of it, of CSV too.
        """
        whole = self.dataset()
        if not self.is_parquet:
            return Share(whole, 0, [], False)
        fragments = list(whole.get_fragments())
        groups = [(place, own) for place, file in enumerate(fragments) for own in file.row_groups]
        ends = np.cumsum([own.num_rows for _, own in groups], dtype=np.int64)
        begins = np.concatenate([[0], ends])[:-1]
        owners = (begins + ends) * count // (2 * max(1, int(ends[-1:].sum())))
        first, end = np.searchsorted(owners, [rank, rank + 1])
        own, rows = [], []
        for place, of_file in itertools.groupby(groups[first:end], lambda group: group[0]):
            numbers = [group.id for _, group in of_file]
            file = fragments[place]
            sizes = np.cumsum([0, *(group.num_rows for group in file.row_groups)]).tolist()
            own.append(file.subset(row_group_ids=numbers))
            rows.append((file.path, range(sizes[numbers[0]], sizes[numbers[-1] + 1]), sizes[-1]))
        uniform = all(
            file.physical_schema.field(name).type == whole.schema.field(name).type
            for file in fragments
            for name in self.names
        )
        share = pyarrow.dataset.FileSystemDataset(own, whole.schema, whole.format, whole.filesystem)
        return Share(share, int(begins[first:end][:1].sum()), rows, uniform)

    def trouble(self, error: Exception) -> str:
        """A sentence on files that can't be read, from what pyarrow or DuckDB say of them."""
        # What the libraries put in front tells how they read, and not what is wrong.
        said = re.split(r"Invalid: |IOError: ", in_one_line(error))[-1]
        value = re.search(r"CSV column #(\d+): (?:Row #(\d+): )?.* error to \w+: (.*)", said)
        if value is not None:
            line = "" if value[2] is None else f" in line {value[2]}"
            said = f"{value[3]} in column {self._column(int(value[1]))!r}{line}"
        what = self.what
        if not self.is_parquet:
            said = csv_trouble(self.path, said)
        if len(self.files) > 1:
            what = f"the file {next((p for p in self.files if not self._is_whole(p)), self.path)}"
        said = re.sub(r"CSV parse error: Row #(\d+): (.)", lambda m: f"line {m[1]}: {m[2]}", said)
        return f"{sentence(what)} can't be read: {said}. Correct it, or write it again."

    def _is_whole(self, path: Path) -> bool:
        """True if all of a Parquet file's columns that are wanted can be read."""
        try:
            for _ in pa.parquet.ParquetFile(path).iter_batches(columns=self.names):
                pass
        except (pa.ArrowException, OSError):
            return False
        return True

    def _column(self, place: int) -> str:
        """Name of a column of CSV."""
        if self.column_names is not None:
            return self.column_names[place]
        with decompressed(self.path) as stream:
            text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
            return next(csv.reader(text, delimiter=self.delimiter))[place]

    def _csv(self) -> pyarrow.dataset.CsvFileFormat:
        types = dict.fromkeys((self.user, self.item), pa.string())
        numbers = [name for name in (self.rating, self.weight) if name is not None]
        return pyarrow.dataset.CsvFileFormat(
            csv_options(self.delimiter),
            convert_options=pa.csv.ConvertOptions(
                column_types=types | dict.fromkeys(numbers, pa.float64())
            ),
            read_options=pa.csv.ReadOptions(
                column_names=None if self.column_names is None else list(self.column_names)
            ),
        )


class Share(NamedTuple):
    """Part of a source that one process reads.

    `first` is the number of its first row, `rows` the path of each file of Parquet, the rows that
    are read, and the number of all; `uniform` says that the columns wanted have the same types in
    all files.
    """

    dataset: pyarrow.dataset.Dataset
    first: int
    rows: list[tuple[str, range, int]]
    uniform: bool
