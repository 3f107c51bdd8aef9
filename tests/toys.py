"""The toy data that many tests share, in few shapes, so that their programs are compiled once."""

import numpy as np

from probmf import Examples, Ratings

_rng = np.random.default_rng(20)
_USER, _ITEM = np.nonzero(_rng.random((8, 7)) < 0.7)
_SCORE = _rng.normal(size=(8, 2)) @ _rng.normal(size=(2, 7))
_NOISE = 0.3 * _rng.normal(size=len(_USER))


def ratings(kind: str = "gaussian") -> Ratings:
    """Eight users, seven items: numbers of many kinds, plays, scores and ages."""
    score = _SCORE[_USER, _ITEM] + _NOISE
    table = {"user": _USER, "item": _ITEM, "rating": score}
    if kind == "yes/no":
        table["rating"] = (score > 0).astype(float)
    elif kind == "levels":
        table["rating"] = 1 + np.digitize(score, [-0.7, 0.7])
    elif kind == "counts":
        table["rating"] = np.round(np.exp(score))
    elif kind == "shares":
        table["rating"] = 1 / (1 + np.exp(-score))
    elif kind == "implicit":
        table |= {"rating": np.ones(len(score)), "plays": 1.0 + np.abs(score)}
        return Ratings.from_frame(table, weight="plays")
    elif kind == "features":
        ages = {"user": np.arange(8), "age": np.arange(8) * 5 + 20.0}
        return Ratings.from_frame(table, user_features=ages)
    return Ratings.from_frame(table)


def mixed(kind: str = "gaussian") -> dict[str, np.ndarray]:
    """Forty rows of two crossed groups and a predictor."""
    rng = np.random.default_rng(21)
    g, h = np.arange(40) % 8, np.arange(40) // 8
    x = rng.normal(size=40)
    mean = 1 + 0.5 * x + rng.normal(size=8)[g] + 0.5 * rng.normal(size=5)[h]
    y = mean + 0.5 * rng.normal(size=40)
    kinds = {"yes/no": (y > 1) * 1, "counts": np.round(np.exp(y))}
    response = kinds.get(kind, y)
    return {"y": response, "x": x, "g": g, "h": h}


def examples(kind: str = "gaussian") -> Examples:
    """Thirty examples of two features."""
    rng = np.random.default_rng(22)
    inputs = rng.normal(size=(30, 2))
    response = np.sin(inputs[:, 0]) + 0.1 * rng.normal(size=30)
    chosen = {"yes/no": (response > 0) * 1, "counts": np.round(np.exp(response))}
    return Examples.from_arrays(inputs, chosen.get(kind, response))
