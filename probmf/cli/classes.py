"""Classes without an order on the command line: their files, their model, and how fits are judged.

The classes are the different ratings that a file has, as they are written there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpyro.distributions import HalfNormal

from probmf import metrics
from probmf.cli.reading import Columns, read_words, same_kind_of_ids
from probmf.cli.remarks import constant_wins
from probmf.data import Ratings
from probmf.models import CategoricalFactorization
from probmf.models.factorization import PRIOR_SCALES
from probmf.results import CategoricalFit

#: Methods that take such a model.
METHODS = ("map", "nuts")
#: Different ratings that are taken for classes, at most.
MOST = 50


def read_classes(
    path: Path, columns: Columns, classes: tuple[str, ...] | None = None
) -> tuple[Ratings, tuple[str, ...]]:
    """Ratings from a file as codes of classes.

    Args:
        path: CSV, TSV or Parquet file.
        columns: Names of its columns.
        classes: The classes; None takes all that the file has, in order.

    Returns:
        The ratings, and the classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a rating is missing or none of the classes, or there are too many of them.
    """
    table, name = read_words(path, columns), str(columns.rating)
    words = [None if value is None else str(value) for value in table[name].to_pylist()]
    if None in words:
        raise ValueError(
            f"The column {name!r} of {path} has no class in row {words.index(None)}; drop such "
            "rows."
        )
    found = np.asarray(words, dtype=str)
    if classes is None:
        classes = _in_order(np.unique(found))
    codes = {label: code for code, label in enumerate(classes)}
    for row, word in enumerate(found):
        if word not in codes:
            raise ValueError(
                f"The column {name!r} of {path} holds {str(word)!r} in row {row}, which is none of "
                f"the fit's classes: {', '.join(map(repr, classes))}."
            )
    coded = pa.array([codes[word] for word in found], pa.int32())
    place = table.column_names.index(name)
    return Ratings.from_frame(table.set_column(place, name, coded), **columns.roles()), classes


def _in_order(words: np.ndarray) -> tuple[str, ...]:
    """Numbers by size, other words by the alphabet."""
    if len(words) > MOST:
        raise ValueError(
            f"The file has {len(words):,} different ratings, which is too many for classes with "
            "biases and factors each. Use --likelihood gaussian."
        )
    try:
        return tuple(sorted(map(str, words), key=float))
    except ValueError:
        return tuple(sorted(map(str, words)))


def check_categorical(
    method: str,
    pairs_only: bool,
    threshold: float | None,
    duplicates: str,
    settings: dict[str, Any],
) -> None:
    """Refuse options of `probmf fit` that mean nothing for classes.

    Raises:
        ValueError: If there is one.
    """
    if method not in METHODS:
        raise ValueError(
            f"--likelihood categorical needs --method {' or '.join(METHODS)}, but the method is "
            f"{method}."
        )
    given = {
        "--pairs-only": pairs_only, "--threshold": threshold is not None,
        "--duplicates": duplicates != "error", "--marginalize": "marginalize" in settings,
    }  # fmt: skip
    for name, present in given.items():
        if present:
            raise ValueError(f"{name} is not for --likelihood categorical; leave it out.")


def class_model(
    classes: tuple[str, ...], method: str, priors: str | None, **terms: Any
) -> CategoricalFactorization:
    """A model of the classes.

    Args:
        classes: Their labels.
        method: Under "nuts" half-normal priors take the place of the scales, unless `priors` is
            "fixed".
        priors: "fixed", "learned" or None.
        **terms: Arguments of `MatrixFactorization`.

    Returns:
        The model.

    Raises:
        ValueError: If an argument is one that it does not have.
    """
    intercept = terms["intercept"]
    if terms.pop("unobserved_weight"):
        raise ValueError(
            "--unobserved-weight takes other pairs for zeros, and classes have no zero; leave it "
            "out."
        )
    if priors == "wishart":
        raise ValueError("--priors wishart is not for --likelihood categorical; give another.")
    if intercept not in ("mean", None):
        raise ValueError(
            f"--intercept is {intercept}; of classes without an order it is mean or none."
        )
    if method == "nuts" and priors != "fixed":
        terms |= {name: HalfNormal(terms[name]) for name in PRIOR_SCALES.values()}
    return CategoricalFactorization(classes=classes, **terms)


def evaluation(fit: CategoricalFit, path: Path, columns: Columns) -> dict[str, Any]:
    """Tables of `probmf evaluate` for such a fit.

    Args:
        fit: The fit.
        path: File of ratings that it has not seen.
        columns: Names of its columns.

    Returns:
        "errors" and "constant" (of the classes' training frequencies), and counts; the pairs whose
        user and item are known are judged.

    Raises:
        ValueError: If a rating is none of the fit's classes, or no pair is known.
    """
    test, _ = read_classes(path, columns, tuple(map(str, fit.model.labels)))
    test = same_kind_of_ids(test, fit.data)
    user = fit.data.users.encode(test.users.ids, unknown="flag")[test.user]
    item = fit.data.items.encode(test.items.ids, unknown="flag")[test.item]
    known = (user >= 0) & (item >= 0)
    if not known.any():
        raise ValueError("No test rating is of a user and an item that the fit knows.")
    pairs = (fit.data.users.ids[user[known]], fit.data.items.ids[item[known]])
    codes = test.rating[known].astype(int)
    shares = np.bincount(fit.data.rating.astype(int), fit.data.weight, fit.model.num_classes)
    constant = np.tile(shares / shares.sum(), (len(codes), 1))
    errors, chance = _errors(codes, fit.predict(pairs).probability), _errors(codes, constant)
    return {
        "num_ratings": int(known.sum()),
        "num_unknown_user": int(np.sum(user < 0)),
        "num_unknown_item": int(np.sum(item < 0)),
        "errors": errors,
        "constant": chance,
        "constant_is": "the classes' shares of the training ratings, for every pair",
        "unknown_are": "left out",
        "coverage": {},
        "ranking": {},
        "remarks": constant_wins(errors, chance),
    }


def _errors(codes: np.ndarray, chance: np.ndarray) -> dict[str, float]:
    return {
        "log score": metrics.level_log_score(codes, chance, np.arange(chance.shape[1])),
        "accuracy": float(np.mean(np.argmax(chance, axis=1) == codes)),
    }
