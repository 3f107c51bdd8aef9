"""Ratings drawn from the factorization model itself, together with the truth behind them."""

import operator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from jax.typing import ArrayLike
from scipy.special import entr, expit

from probmf.data import Ratings, as_generator
from probmf.datasets.pairs import draw_pairs

type Likelihood = Literal["gaussian", "bernoulli"]

# Ratings scored together, so that gathered factors don't take num_factors times the ratings' room.
_BLOCK_RATINGS = 1 << 16


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated ratings and what they were made from.

    Attributes:
        ratings: The ratings; ids are 1, 2, ... and hence code i is id i + 1.
        truth: The parameters by site name, as float64 arrays in code order: `user_factors`
            (num_users, num_factors), `item_factors` (num_items, num_factors), `user_bias`
            (num_users,), `item_bias` (num_items,), `intercept` (), and the scales () they were
            drawn with. What was switched off is left out.
        score: The linear predictor at the rated pairs, without noise, in the order of `ratings`:
            expected ratings (Gaussian) or log odds (Bernoulli), shape (num_ratings,).
        noise_floor: What somebody who knew the truth would attain in expectation: the RMSE
            (Gaussian), or the log loss in nats at these pairs (Bernoulli).
    """

    ratings: Ratings
    truth: dict[str, np.ndarray]
    score: np.ndarray
    noise_floor: float


def simulate_ratings(
    *,
    key: ArrayLike,
    num_users: int,
    num_items: int,
    num_ratings: int,
    num_factors: int,
    likelihood: Likelihood = "gaussian",
    intercept: float | None = None,
    noise_scale: float | None = None,
    user_scale: float = 0.5,
    item_scale: float = 0.5,
    user_bias_scale: float = 0.3,
    item_bias_scale: float = 0.4,
    popularity: float = 1.0,
    with_titles: bool = True,
) -> Simulation:
    r"""Draw ratings from the matrix factorization model at skewed, distinct pairs.

    .. math:: \eta_{mn} = \mu + b_m + c_n + u_m \cdot v_n, \qquad
       r_{mn} \sim N(\eta_{mn}, \sigma^2) \ \text{or}\ r_{mn} \sim
       \text{Bernoulli}(\text{logit}^{-1} \eta_{mn})

    with every effect normal around zero. Which pairs are rated has nothing to do with the effects.
    The popularity of items follows a Zipf-Mandelbrot law, (rank + num_items / 50)^-popularity, as
    far as the number of users allows; user activity is log-normal. Every user and every item has
    at least one rating. Ratings are not rounded or clipped.

    Args:
        key: JAX key or int. The same key gives the same pairs and effects for both likelihoods.
        num_users: Number of users, at least 1.
        num_items: Number of items, at least 1.
        num_ratings: Number of ratings, at least max(num_users, num_items) and at most
            num_users * num_items.
        num_factors: Length of the factors; 0 for none.
        likelihood: "gaussian", or "bernoulli" for ratings 0.0 and 1.0.
        intercept: Mean score; None means 3.5 (Gaussian) or 0 (Bernoulli).
        noise_scale: Standard deviation of a Gaussian rating about its score, not negative; None
            means 0.5. A Bernoulli rating has none.
        user_scale: Standard deviation of each entry of the user factors, positive. The product of
            the factors has standard deviation `user_scale * item_scale * sqrt(num_factors)`.
        item_scale: Standard deviation of each entry of the item factors, positive.
        user_bias_scale: Standard deviation of the user biases; 0 switches them off.
        item_bias_scale: Standard deviation of the item biases; 0 switches them off.
        popularity: Exponent of the power law, not negative; 0 makes all items alike.
        with_titles: Give `ratings` a table of item features with an invented title for each item.

    Returns:
        The ratings, in random order, and the truth.

    Raises:
        TypeError: If a count is not a whole number, a scale not a number, or `key` not a key.
        ValueError: If an argument is out of its range; the message says which and what the range
            is.

    Example:
        >>> simulation = simulate_ratings(
        ...     key=0, num_users=50, num_items=20, num_ratings=300, num_factors=2
        ... )
        >>> len(simulation.ratings), simulation.truth["user_factors"].shape
        (300, (50, 2))
        >>> simulation.noise_floor
        0.5

    Source: Salakhutdinov and Mnih (2008), Probabilistic matrix factorization, NIPS 20, equations 1
    and 2, with biases; Mandelbrot's form of Zipf's law for the popularity. Time
    O(num_ratings (log(num_ratings) + num_factors)), about a second per million ratings; memory
    O(num_ratings), however large the catalogue.
    """
    if likelihood not in get_args(Likelihood.__value__):
        raise ValueError(
            f"likelihood is {likelihood!r}; expected one of {get_args(Likelihood.__value__)}."
        )
    gaussian = likelihood == "gaussian"
    if not gaussian and noise_scale is not None:
        raise ValueError(
            f"noise_scale is {noise_scale!r}, but a Bernoulli rating has no noise of its own; "
            'leave noise_scale out, or ask for likelihood="gaussian".'
        )
    num_users, num_items = _count("num_users", num_users), _count("num_items", num_items)
    num_factors = _count("num_factors", num_factors, least=0)
    num_ratings = _count("num_ratings", num_ratings)
    least, most = max(num_users, num_items), num_users * num_items
    if not least <= num_ratings <= most:
        raise ValueError(
            f"num_ratings is {num_ratings}, but {num_users} users and {num_items} items allow from "
            f"{least} (every user and item has a rating) to {most} (every pair has one)."
        )
    numbers = {
        "intercept": _number(
            "intercept", (3.5 if gaussian else 0.0) if intercept is None else intercept
        ),
        "user_bias_scale": _number("user_bias_scale", user_bias_scale, least=0.0),
        "item_bias_scale": _number("item_bias_scale", item_bias_scale, least=0.0),
        "user_scale": _positive("user_scale", user_scale),
        "item_scale": _positive("item_scale", item_scale),
    }
    sigma = _number("noise_scale", 0.5 if noise_scale is None else noise_scale, least=0.0)
    exponent = _number("popularity", popularity, least=0.0)

    for_pairs, for_effects, for_noise = as_generator(key).spawn(3)
    user, item = draw_pairs(for_pairs, num_users, num_items, num_ratings, exponent)
    truth = _draw_effects(for_effects, num_users, num_items, num_factors, numbers)
    score = _scores(truth, user, item)
    if gaussian:
        truth["noise_scale"] = np.asarray(sigma)
        rating = for_noise.normal(score, sigma)
        floor = sigma
    else:
        rating = (for_noise.random(num_ratings) < expit(score)).astype(np.float64)
        # expit(-score), not 1 - expit(score), which is 0 for a large score.
        floor = float((entr(expit(score)) + entr(expit(-score))).mean())
    titles = pa.table({"item": np.arange(1, num_items + 1), "title": invent_titles(num_items)})
    ratings = Ratings.from_frame(
        pa.table({"user": user + 1, "item": item + 1, "rating": rating}),
        item_features=titles if with_titles else None,
    )
    return Simulation(ratings, truth, score, floor)


def simulate_catalogue(*, key: ArrayLike) -> Simulation:
    """A small catalogue for demonstrations: 600 users rate 300 titled items 30,000 times.

    Gaussian ratings about 3.5 that mostly lie between 1 and 5, with 4 factors and noise of standard
    deviation 0.5.

    Args:
        key: JAX key or int.

    Returns:
        The ratings and the truth, as from `simulate_ratings`.

    Raises:
        TypeError: If `key` is neither a JAX key nor an int.
        ValueError: If `key` is negative or holds several keys.

    Example:
        >>> catalogue = simulate_catalogue(key=0)
        >>> catalogue.ratings.num_users, catalogue.ratings.num_items, len(catalogue.ratings)
        (600, 300, 30000)
    """
    return simulate_ratings(
        key=key, num_users=600, num_items=300, num_ratings=30_000, num_factors=4, popularity=0.5
    )


def _draw_effects(
    rng: np.random.Generator,
    num_users: int,
    num_items: int,
    num_factors: int,
    numbers: dict[str, float],
) -> dict[str, np.ndarray]:
    """Intercept, and each effect with its scale, by site name."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        "user_bias": ("user_bias_scale", (num_users,)),
        "item_bias": ("item_bias_scale", (num_items,)),
        "user_factors": ("user_scale", (num_users, num_factors)),
        "item_factors": ("item_scale", (num_items, num_factors)),
    }
    truth = {"intercept": np.asarray(numbers["intercept"])}
    for site, (scale, shape) in shapes.items():
        # Drawn even if switched off, so that the other effects stay what they are.
        values = numbers[scale] * rng.standard_normal(shape)
        if values.size and numbers[scale] > 0:
            truth |= {site: values, scale: np.asarray(numbers[scale])}
    return truth


def _scores(truth: dict[str, np.ndarray], user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The linear predictor at the given pairs, a block at a time."""
    score = np.full(user.size, float(truth["intercept"]))
    for start in range(0, user.size, _BLOCK_RATINGS):
        block = slice(start, start + _BLOCK_RATINGS)
        u, i = user[block], item[block]
        if "user_bias" in truth:
            score[block] += truth["user_bias"][u]
        if "item_bias" in truth:
            score[block] += truth["item_bias"][i]
        if "user_factors" in truth:
            score[block] += np.vecdot(truth["user_factors"][u], truth["item_factors"][i])
    return score


def _count(name: str, value: int, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name} is {value!r} of type {type(value).__name__}; give a whole number.")
    if count < least:
        raise ValueError(f"{name} is {count}; it must be at least {least}.")
    return count


def _number(name: str, value: float, least: float = -np.inf) -> float:
    """`value` as a finite float of at least `least`."""
    try:
        number = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise TypeError(f"{name} is {value!r} of type {type(value).__name__}; give one number.")
    if not np.isfinite(number) or number < least:
        bound = "" if least == -np.inf else f" and at least {least:g}"
        raise ValueError(f"{name} is {number:g}; it must be finite{bound}.")
    return number


def _positive(name: str, value: float) -> float:
    number = _number(name, value, least=0.0)
    if number == 0.0:
        raise ValueError(
            f"{name} is 0; it must be positive. To leave the factors out, set num_factors=0."
        )
    return number


_ADJECTIVE_LIST = (
    "Amber Ancient Autumn Blue Borrowed Bright Broken Burning Careful Clever Copper Crimson "
    "Crooked Distant Drifting Early Electric Empty Endless Faded Fearless Final Forgotten Frozen "
    "Gentle Gilded Golden Hidden Hollow Honest Humble Hungry Invisible Iron Ivory Last Lonely Lost "
    "Lucky Marble Midnight Narrow Northern Patient Paper Perfect Quiet Restless Rising Sacred "
    "Scarlet Second Secret Silent Silver Sleeping Southern Stolen Stubborn Velvet Wandering Winter "
    "Wooden Young"
)
_NOUN_LIST = (
    "Aviary Bakery Balcony Bicycle Bridge Canary Captain Carnival Castle Cellist Clockmaker Comet "
    "Compass Cottage Daughter Detective Diamond Dragonfly Elephant Envelope Ferry Forest Fountain "
    "Garden Gardener Ghost Harbour Horizon Island Journey Juggler Kingdom Kitchen Ladder Lantern "
    "Letter Library Lighthouse Locksmith Machine Magician Melody Mirror Mountain Museum Neighbour "
    "Orchard Painter Passenger Piano Planet Postman Promise River Sailor Shadow Station Stranger "
    "Summer Theatre Umbrella Violin Voyage Witness"
)
_ADJECTIVES, _NOUNS = _ADJECTIVE_LIST.split(), _NOUN_LIST.split()
_NUM_PAIRS = len(_ADJECTIVES) * len(_NOUNS)
# Shares no divisor with the number of pairs, so that neighbours differ in both words and no pair
# comes back before all have been used.
_STRIDE = 1597


def invent_titles(num_titles: int) -> list[str]:
    """Titles such as "The Silver Lighthouse"; once the words run out, sequels of the same.

    The first n are the same for every `num_titles` >= n.

    Example:
        >>> invent_titles(3)
        ['The Amber Aviary', 'The Gentle Violin', 'The Sacred Summer']
    """
    titles = []
    for number in range(num_titles):
        sequel, place = divmod(number, _NUM_PAIRS)
        adjective, noun = divmod(place * _STRIDE % _NUM_PAIRS, len(_NOUNS))
        suffix = f" {sequel + 1}" if sequel else ""
        titles.append(f"The {_ADJECTIVES[adjective]} {_NOUNS[noun]}{suffix}")
    return titles
