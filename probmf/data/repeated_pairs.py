"""Repeated pairs among sorted ratings that are read piece by piece."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from probmf.data.rating_fields import combine
from probmf.data.rating_table import RatingColumns


def whole_pairs(reader: pa.RecordBatchReader) -> Iterator[dict[str, np.ndarray]]:
    """Columns piece by piece, all rows of a pair in one piece; the last piece may be empty."""
    kept = {field.name: np.asarray(pa.array([], field.type)) for field in reader.schema}
    for batch in reader:
        columns = {
            name: np.concatenate([kept[name], np.asarray(values)]) if len(kept[name])
            else np.asarray(values)
            for name, values in zip(kept, batch.columns, strict=True)
        }  # fmt: skip
        new = np.flatnonzero(_new_pairs(columns))
        if not len(new):
            continue
        kept = {name: values[new[-1] :] for name, values in columns.items()}
        if new[-1]:
            yield {name: values[: new[-1]] for name, values in columns.items()}
    yield kept


def _new_pairs(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """True for the first row of each pair."""
    user, item = columns["user"], columns["item"]
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return new


def first_repeat(columns: Mapping[str, np.ndarray]) -> int | None:
    """The first row of a pair that the row before has; None if there is none."""
    repeats = np.flatnonzero(~_new_pairs(columns))
    return int(repeats[0]) if len(repeats) else None


def combine_pairs(columns: Mapping[str, np.ndarray], *, mean: bool) -> dict[str, np.ndarray]:
    """One row for each pair; see `combine`."""
    new = _new_pairs(columns)
    rows = RatingColumns(columns["user"], columns["item"], columns["rating"], columns.get("weight"),
                columns.get("time"), {})  # fmt: skip
    combined = combine(rows, np.flatnonzero(new), np.cumsum(new) - 1, mean=mean)._asdict()
    return {name: combined[name] for name in columns}
