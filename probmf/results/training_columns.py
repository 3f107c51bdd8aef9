"""Columns of the training data that a mixed model is stored with.

What formulaic remembers of the training data has no file form, so the design is made anew from the
columns that it used: exact, and nothing is unpickled.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from probmf.data.column import objects
from probmf.data.vocabulary import read_levels
from probmf.models.mixed import Design, MixedEffects
from probmf.models.mixed.build import columns_of
from probmf.models.mixed.design import read_data

Columns = dict[str, Any]


def used_columns(model: MixedEffects, design: Design, data: Any) -> Columns:
    """The columns that the formulas use; categories as their codes and their order.

    Arrays, NumPy's or Arrow's, and mappings of `codes` and `order`. A table that gives another
    design is refused.
    """
    formulas = [part for part in (model.parsed, model.parsed_scale) if part is not None]
    names = [design.data.response_name, *(name for part in formulas for name in columns_of(part))]
    names += [*design.known.values(), *([] if model.weights is None else [model.weights])]
    columns: Columns = {}
    table = read_data(data, list(dict.fromkeys(names)), gaps=model.parsed.with_gaps)
    for name, column in table.items():
        order = column.categories
        if order is None:
            columns[name] = column.values
            continue
        vocabulary, codes = read_levels(column, name)
        place = {value: place for place, value in enumerate(order)}
        ranks = np.array([place[value] for value in vocabulary.ids.tolist()], np.int32)
        columns[name] = {"codes": ranks[codes], "order": objects(order)}
    _check_same(design, model.design(as_table(columns)))
    return columns


def as_table(columns: Mapping[str, Any]) -> Columns:
    """The columns as a table that gives the same design."""
    return {
        name: pa.DictionaryArray.from_arrays(
            pa.array(column["codes"]), pa.array(column["order"]), ordered=True
        )
        if isinstance(column, Mapping)
        else column
        for name, column in columns.items()
    }


def _check_same(design: Design, again: Design) -> None:
    """Refuse data that do not give the design that was fitted."""
    ours, theirs = (
        jax.tree.leaves((part.data.predictors, part.data.response, part.data.weight))
        for part in (design, again)
    )
    same = len(ours) == len(theirs) and all(
        a.shape == b.shape and np.array_equal(np.float32(a), np.float32(b))
        for a, b in zip(ours, theirs, strict=True)
    )
    same = same and design.levels.keys() == again.levels.keys()
    same = same and all(
        list(map(str, design.levels[name])) == list(map(str, again.levels[name]))
        for name in design.levels
    )
    if not same or design.response_levels != again.response_levels:
        raise ValueError(
            "The training data give another design than the one that was fitted: they are other "
            "data, or a column has no file form that reads back the same. Give save(path, "
            "data=...) the table that the fit was made from, with ids as numbers or text."
        )
