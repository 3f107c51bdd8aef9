"""One side's rows integrated out, against the general transform and dense algebra."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.stats import multivariate_normal, norm
from numpyro.infer.util import log_density
from rings import slow

from probmf import Bernoulli, Gaussian, MatrixFactorization, NormalWishart, Ratings
from probmf.inference import marginal
from probmf.inference.marginal_rows import RowsMarginal, Stretched, find_start, rows_marginal
from probmf.inference.marginal_rows import integrated_rows as rows_model
from probmf.inference.marginal_rows.evidence import ELIMINATED, invert
from probmf.inference.marginal_rows.integrated_rows import LEVEL
from probmf.inference.marginal_rows.loops import list_ratings
from probmf.inference.nuts import nuts
from probmf.inference.nuts.nuts import sample_nuts
from probmf.inference.potential import Potential
from probmf.models.observations import Observations
from probmf.results import RatingsFit
from probmf.rows.cpu.evidence import BLOCK
from probmf.rows.store import SIDES

HALF = dist.HalfNormal(1.0)
USERS, ITEMS = 9, 7

CASES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "sampled": {"user_scale": HALF, "user_bias_scale": HALF, "item_bias_scale": HALF,
                "likelihood": Gaussian(HALF), "intercept": dist.Normal(3.0, 2.0)},
    "all sampled": {"item_scale": HALF, "user_scale": HALF, "intercept": "mean"},
    "per row": {"user_scale": np.linspace(0.3, 1.2, USERS), "item_scale": np.linspace(1, 2, ITEMS),
                "user_bias_scale": np.linspace(0.1, 0.9, USERS), "intercept": 3.0},
    "sampled per row": {"user_scale": dist.HalfNormal(np.ones(USERS)),
                        "item_bias_scale": dist.HalfNormal(np.ones(ITEMS)),
                        "intercept": dist.Normal(3.0, 0.5)},
    "factors only": {"user_bias": False, "item_bias": False, "intercept": dist.Normal(3.0, 2.0)},
    "no own bias": {"user_bias": False, "intercept": dist.Normal(3.0, 2.0)},
    "no other bias": {"item_bias": False, "intercept": dist.Normal(3.0, 2.0)},
    "bias only": {"num_factors": 0, "user_bias_scale": HALF, "intercept": dist.Normal(3.0, 2.0)},
    "tiny scale": {"user_scale": 1e-9, "user_bias_scale": 0.4},
}  # fmt: skip


def make_ratings(weighted: bool = False, count: int = 40) -> Ratings:
    """Every user but the last has ratings; one item has none."""
    rng = np.random.default_rng(3)
    pairs = rng.permutation((USERS - 1) * (ITEMS - 1))[:count]
    user, item = pairs // (ITEMS - 1), pairs % (ITEMS - 1)
    user, item = np.append(user, [USERS - 1, 0]), np.append(item, [0, ITEMS - 1])
    weight = np.append(rng.uniform(0.5, 2.0, count) if weighted else np.ones(count), [0.0, 0.0])
    rating = rng.normal(3.0, 1.0, count + 2)
    table = {"user": user, "item": item, "rating": rating, "weight": weight}
    return Ratings.from_frame(table, weight="weight")


def make_model(case: str) -> MatrixFactorization:
    return MatrixFactorization(**({"num_factors": 2} | CASES[case]))


def own_sites(model: MatrixFactorization, side: str) -> tuple[str, ...]:
    return tuple(site for site in model.site_shapes(1, 1) if site.startswith(side))


def setting(
    case: str, side: str = "user", weighted: bool = False
) -> tuple[RowsMarginal, Observations, dict[str, jax.Array]]:
    """The model, its data, and values of what remains."""
    model = make_model(case)
    if side == "item":
        swapped = {"user": "item", "item": "user"}
        names = ("bias", "scale", "bias_scale")
        values = {f"{a}_{n}": getattr(model, f"{b}_{n}") for a, b in swapped.items() for n in names}
        model = replace(model, **values)
    ratings = make_ratings(weighted)
    if side == "item":
        ratings = Ratings.from_frame(
            {"user": ratings.item, "item": ratings.user, "rating": ratings.rating,
             "weight": ratings.weight}, weight="weight",
        )  # fmt: skip
    (data,) = model.arguments(ratings)
    target = rows_marginal(model, data, own_sites(model, side))
    assert target is not None
    rng = np.random.default_rng(5)
    potential = Potential(target, (), {})
    shapes = jax.eval_shape(potential.constrain, potential.vector)
    values = {
        name: jnp.asarray(rng.uniform(0.5, 1.5, v.shape) if "scale" in name
                          else rng.normal(3.0 if name in (LEVEL, "intercept") else 0.0, 1, v.shape))
        for name, v in shapes.items()
    }  # fmt: skip
    return target, data, values


def ours(target: RowsMarginal, values: dict[str, jax.Array]) -> jax.Array:
    return log_density(target, (), {}, values)[0]


def looped_of(target: RowsMarginal) -> RowsMarginal:
    """By loops, however few ratings there are."""
    return replace(target, lists=list_ratings(target.observations, target.side))


def as_general(target: RowsMarginal, values: dict[str, jax.Array], intercept: Any) -> dict:
    """Values of the general transform's sites."""
    found = {name: value for name, value in values.items() if name != LEVEL}
    if LEVEL in values:
        found[f"{target.other}_bias"] = values[LEVEL] - intercept
        if target.model.learns_intercept:
            found["intercept"] = intercept
    return found


def check_general(
    target: RowsMarginal, data: Observations, values: dict[str, jax.Array], tolerance: float
) -> None:
    """Density and gradient, by XLA and by loops; a learned intercept's conditional divided out."""
    general = marginal.marginalize(target.model, own_sites(target.model, target.side))
    general.prepare(data)

    def theirs(values: dict[str, jax.Array]) -> jax.Array:
        if LEVEL not in values:
            return log_density(general, (data,), {}, as_general(target, values, None))[0]
        _, mean, sd = target.level_law(target_values(target, values))
        full = log_density(general, (data,), {}, as_general(target, values, mean))[0]
        return full - (norm.logpdf(mean, mean, sd) if target.model.learns_intercept else 0.0)

    wanted, slopes = jax.jit(jax.value_and_grad(theirs))(values)
    for own in (target, looped_of(target)):
        value, gradient = jax.jit(jax.value_and_grad(partial(ours, own)))(values)
        np.testing.assert_allclose(value, wanted, rtol=tolerance)
        for name in values:
            size = max(float(jnp.abs(slopes[name]).max()), 1.0)
            np.testing.assert_allclose(gradient[name], slopes[name], atol=tolerance * size)


def target_values(target: RowsMarginal, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
    fixed = {
        name: jnp.asarray(scale, jnp.result_type(float))
        for name, scale in target.scales().items()
        if not isinstance(scale, dist.Distribution)
    }
    return fixed | values


@pytest.mark.parametrize(
    "case",
    [
        "sampled", "sampled per row", "factors only", "bias only",
        *(pytest.param(case, marks=pytest.mark.slow)
          for case in ("fixed", "all sampled", "per row", "no own bias", "no other bias")),
    ],
)  # fmt: skip
def test_density_and_gradient_are_those_of_the_general_transform(case: str) -> None:
    with jax.enable_x64(True):
        check_general(*setting(case), 1e-10)


@pytest.mark.parametrize(("case", "side", "weighted"), [
    ("sampled", "item", True), ("per row", "item", False),
    pytest.param("sampled", "user", True, marks=pytest.mark.slow),
])  # fmt: skip
def test_sides_and_weights(case: str, side: str, weighted: bool) -> None:
    with jax.enable_x64(True):
        check_general(*setting(case, side, weighted), 1e-10)


@pytest.mark.parametrize("case", ["sampled", "tiny scale"])
def test_loops_in_single_precision(case: str) -> None:
    target, _, values = setting(case, weighted=True)
    value, gradient = jax.jit(jax.value_and_grad(partial(ours, looped_of(target))))(values)
    with jax.enable_x64(True):
        target, _, _ = setting(case, weighted=True)
        doubled = {name: jnp.asarray(v, jnp.float64) for name, v in values.items()}
        wanted, slopes = jax.jit(jax.value_and_grad(lambda v: ours(target, v)))(doubled)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for name in values:
        np.testing.assert_allclose(gradient[name], slopes[name], rtol=1e-4, atol=1e-4)


def test_loops_over_rows_longer_than_a_block() -> None:
    """The designs of such rows are gathered twice."""
    rng = np.random.default_rng(0)
    items = 2 * BLOCK + 5
    table = {"user": np.append(np.zeros(items, int), [1, 2]),
             "item": np.append(np.arange(items), [5, 6]),
             "rating": rng.normal(size=items + 2)}  # fmt: skip
    with jax.enable_x64(True):
        model = MatrixFactorization(3, intercept=dist.Normal(0.0, 1.0))
        (data,) = model.arguments(Ratings.from_frame(table))
        target = rows_marginal(model, data, own_sites(model, "user"))
        assert target is not None
        values = {LEVEL: jnp.asarray(rng.normal(size=items)),
                  "item_factors": jnp.asarray(rng.normal(size=(items, 3)))}  # fmt: skip
        looped = looped_of(target)
        value, gradient = jax.jit(jax.value_and_grad(partial(ours, looped)))(values)
        wanted, slopes = jax.jit(jax.value_and_grad(partial(ours, target)))(values)
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        for name in values:
            np.testing.assert_allclose(gradient[name], slopes[name], rtol=1e-9, atol=1e-9)


def test_loops_where_a_scale_vanishes_give_no_numbers_and_no_errors() -> None:
    target, _, values = setting("sampled")
    looped = looped_of(target)
    nowhere = values | {"noise_scale": jnp.zeros(())}
    with np.errstate(all="raise"):
        value = jax.jit(lambda v: ours(looped, v))(nowhere)
    assert not np.isfinite(value)


def test_other_data_of_the_same_shape_trace_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, values = [], []
    run = RowsMarginal.__call__

    def counted(self: RowsMarginal) -> None:
        calls.append(self)
        run(self)

    monkeypatch.setattr(RowsMarginal, "__call__", counted)
    for shift in (0.0, 1.0):
        traced = len(calls)
        model, ratings = make_model("sampled"), make_ratings()
        ratings = replace(ratings, rating=ratings.rating + shift)
        (data,) = model.arguments(ratings)
        target = rows_marginal(model, data, own_sites(model, "user"))
        assert target is not None
        potential = Stretched(looped_of(target))
        values.append(float(potential.value(potential.vector)))
    assert traced == len(calls)
    assert traced > 0
    assert values[0] != values[1]


def test_large_systems_are_inverted_by_factors(x64: bool) -> None:
    size = ELIMINATED + 1
    factor = np.random.default_rng(0).normal(size=(3, size, size))
    system = np.eye(size) + factor @ factor.transpose(0, 2, 1)
    inverse, logdet = invert(jnp.moveaxis(jnp.asarray(system), 0, -1))
    tolerance = 1e-10 if x64 else 1e-4
    np.testing.assert_allclose(np.moveaxis(inverse, -1, 0), np.linalg.inv(system), atol=tolerance)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(system)[1], rtol=tolerance)


@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_dense_normal(x64: bool, weighted: bool) -> None:
    target, data, values = setting("sampled", weighted=weighted)
    model, k = target.model, target.model.num_factors
    user, item = np.asarray(data.user), np.asarray(data.item)

    def dense(values: dict[str, jax.Array]) -> jax.Array:
        design = jnp.concatenate([jnp.ones((len(item), 1)), values["item_factors"][item]], axis=1)
        scale = jnp.stack([values["user_bias_scale"]] + [values["user_scale"]] * k)
        half = design * scale[None]
        same = jnp.asarray(user[:, None] == user[None])
        weight = 1.0 if data.weight is None else data.weight
        noise = jnp.square(values["noise_scale"]) / weight * jnp.ones(len(item))
        covariance = jnp.where(same, half @ half.T, 0.0) + jnp.diag(noise)
        total = multivariate_normal.logpdf(data.rating, values[LEVEL][item], covariance)
        prior, spread = model.intercept, values["item_bias_scale"]
        assert isinstance(prior, dist.Normal)
        level = jnp.square(spread) * jnp.eye(ITEMS) + prior.scale**2
        total += multivariate_normal.logpdf(values[LEVEL], jnp.full(ITEMS, prior.loc), level)
        total += norm.logpdf(values["item_factors"]).sum()
        return total + sum(HALF.log_prob(v).sum() for n, v in values.items() if "scale" in n)

    value, gradient = jax.jit(jax.value_and_grad(lambda v: ours(target, v)))(values)
    wanted, slopes = jax.jit(jax.value_and_grad(dense))(values)
    tolerance = 1e-10 if x64 else 1e-4
    np.testing.assert_allclose(value, wanted, rtol=tolerance)
    for name in values:
        size = max(float(jnp.abs(slopes[name]).max()), 1.0)
        np.testing.assert_allclose(gradient[name], slopes[name], atol=tolerance * size)


def test_tiny_scales_give_finite_numbers(x64: bool) -> None:
    target, _, values = setting("tiny scale")
    value, gradient = jax.jit(jax.value_and_grad(lambda v: ours(target, v)))(values)
    assert np.isfinite(value)
    assert all(np.isfinite(part).all() for part in gradient.values())
    # Factors of scale zero leave the biases alone, whatever the other side's factors.
    prior = -np.asarray(values["item_factors"])
    np.testing.assert_allclose(gradient["item_factors"], prior, rtol=1e-5, atol=1e-5)


def test_long_rows_are_summed_over_many_lines() -> None:
    """One user with more ratings than a tile and than a line of tiles has."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        table = {"user": np.append(np.zeros(300, int), [1, 2]),
                 "item": np.append(np.arange(300), [5, 6]),
                 "rating": rng.normal(size=302)}  # fmt: skip
        model = MatrixFactorization(2, intercept=dist.Normal(0.0, 1.0))
        (data,) = model.arguments(Ratings.from_frame(table))
        target = rows_marginal(model, data, own_sites(model, "user"))
        assert target is not None
        values = {
            LEVEL: jnp.asarray(rng.normal(size=300)),
            "item_factors": jnp.asarray(rng.normal(size=(300, 2))),
        }
        check_general(target, data, values, 1e-9)


def test_recovered_rows_have_the_closed_form() -> None:
    """Means and covariances of many draws, and of a user without ratings the prior's."""
    with jax.enable_x64(True):
        target, data, values = setting("per row", weighted=True)
        count = 40_000
        samples = {n: np.broadcast_to(v, (2, count // 2, *v.shape)) for n, v in values.items()}
        drawn = target.recover(jax.random.key(1), samples)
        rows = np.concatenate([drawn["user_bias"][..., None], drawn["user_factors"]], axis=-1)
        rows = rows.reshape(count, USERS, 3)
        assert drawn["item_bias"].shape == (2, count // 2, ITEMS)
        np.testing.assert_allclose(
            drawn["item_bias"] + drawn["intercept"][..., None], samples[LEVEL]
        )
        model = target.model
        scales = np.stack([model.user_bias_scale, model.user_scale, model.user_scale], axis=1)
        weight = np.asarray(data.weight)
        for user in range(USERS):
            mine = np.asarray(data.user) == user
            item = np.asarray(data.item)[mine]
            x = np.concatenate([np.ones((len(item), 1)), values["item_factors"][item]], axis=1)
            target_of = np.asarray(data.rating)[mine] - np.asarray(values[LEVEL])[item]
            precision = np.diag(scales[user] ** -2.0) + (x * weight[mine, None]).T @ x
            covariance = np.linalg.inv(precision)
            mean = covariance @ (x.T @ (weight[mine] * target_of))
            sd = np.sqrt(np.diag(covariance))
            error = np.abs(rows[:, user].mean(0) - mean) / sd
            assert (error < 5 / count**0.5).all()
            spread = np.cov(rows[:, user].T) / np.outer(sd, sd)
            np.testing.assert_allclose(spread, covariance / np.outer(sd, sd), atol=0.04)


def test_recovered_intercept() -> None:
    with jax.enable_x64(True):
        target, _, values = setting("sampled")
        samples = {n: np.broadcast_to(v, (1, 20_000, *v.shape)) for n, v in values.items()}
        drawn = target.recover(jax.random.key(1), samples, rows=False)
        assert "user_bias" not in drawn
        weight = float(values["item_bias_scale"]) ** -2
        precision = ITEMS * weight + 0.25
        mean = (weight * float(values[LEVEL].sum()) + 0.25 * 3.0) / precision
        draws = drawn["intercept"].ravel()
        assert abs(draws.mean() - mean) < 5 * (precision * draws.size) ** -0.5
        np.testing.assert_allclose(draws.var(), 1 / precision, rtol=0.05)


def test_scales_start_where_the_evidence_is_large() -> None:
    """And where their priors allow them."""
    with jax.enable_x64(True):
        target, _, _ = setting("sampled")
        narrow = Gaussian(dist.Uniform(5.0, 6.0))
        target = replace(target, model=replace(target.model, likelihood=narrow))
        potential = Potential(target, (), {})
        start = find_start(target, potential, make_ratings(), jax.random.key(0), 2)
        assert start.vectors.shape == (2, potential.num_dims)
        assert (start.inverse_mass > 0).all()
        assert np.isfinite(potential.value(jnp.asarray(start.vectors[0])))


def draw(marginalize: tuple[str, ...], **options: Any) -> RatingsFit:
    model = MatrixFactorization(
        1, Gaussian(dist.HalfNormal(1.0)), intercept=dist.Normal(3.0, 1.0), user_scale=0.7,
        item_scale=1.0, user_bias_scale=dist.HalfNormal(1.0), item_bias_scale=0.5,
    )  # fmt: skip
    settings: dict[str, Any] = {"key": 0, "num_warmup": 200, "num_samples": 600, "num_chains": 2}
    return sample_nuts(
        model, make_ratings(), marginalize=marginalize, progress=False, **(settings | options)
    )


@pytest.mark.slow
def test_a_small_posterior_is_that_of_joint_sampling() -> None:
    rows, joint = draw(("user_bias", "user_factors")), draw((), max_tree_depth=5)
    assert rows.method == "nuts/marginal"

    def quantities(fit: RatingsFit) -> np.ndarray:
        samples = fit.samples
        score = np.einsum("cduk,cdik->cdui", samples["user_factors"], samples["item_factors"])
        score = score + samples["intercept"][..., None, None]
        score = score + samples["user_bias"][..., None] + samples["item_bias"][..., None, :]
        globals_ = [samples[name] for name in ("intercept", "noise_scale", "user_bias_scale")]
        parts = [np.stack(globals_, axis=-1), score.reshape(*score.shape[:2], -1)]
        return np.concatenate(parts, axis=-1)

    one, two = quantities(rows), quantities(joint)
    # Batch means give the Monte-Carlo errors.
    error = np.hypot(*(x.reshape(20, -1, x.shape[-1]).mean(1).std(0) / 20**0.5 for x in (one, two)))
    z = (one.mean((0, 1)) - two.mean((0, 1))) / error
    assert np.abs(z).max() < 5.5
    # Scores share most of their error, so that a share of them is off together.
    assert np.mean(np.abs(z) < 2) > 0.75
    ratio = one.std((0, 1)) / two.std((0, 1))
    assert (ratio > 0.75).all()
    assert (ratio < 1.33).all()


@pytest.mark.slow
def test_chains_by_loops_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = ("user_bias", "user_factors")
    short: dict[str, Any] = {"num_warmup": 5, "num_samples": 5, "max_tree_depth": 3}
    program = draw(sites, **short)
    asked: list[RowsMarginal] = []
    by_loops = RowsMarginal.by_loops

    def noted(self: RowsMarginal) -> RowsMarginal:
        asked.append(by_loops(self))
        return asked[-1]

    monkeypatch.setattr(rows_model, "LEAST_WORK", 0)
    monkeypatch.setattr(RowsMarginal, "by_loops", noted)
    loops = draw(sites, **short)
    assert [target.lists is None for target in asked] == [False]
    for name, value in program.samples.items():
        np.testing.assert_allclose(loops.samples[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("least_work", "loops"), [(0, True), (10**9, False)])
def test_chains_go_by_loops_where_there_is_work(
    least_work: int, loops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the chains move on is what was compared above; its draws are a long test's."""

    def begin(target: Any, potential: Stretched, *_: Any) -> None:
        raise RuntimeError(f"{potential._parts[0].lists is not None}")

    monkeypatch.setattr(nuts, "_start", begin)
    monkeypatch.setattr(rows_model, "LEAST_WORK", least_work)
    with pytest.raises(RuntimeError, match=f"^{loops}$"):
        draw(("user_bias", "user_factors"))


@pytest.mark.slow
def test_a_checkpoint_is_continued_bit_for_bit(tmp_path: Any) -> None:
    sites = ("item_bias", "item_factors")
    short: dict[str, Any] = {"num_warmup": 5, "num_samples": 5, "num_chains": 1,
                             "dense_mass": True}  # fmt: skip
    whole = draw(sites, **short)
    for _ in range(2):  # The second finds all draws there.
        again = draw(sites, checkpoint=tmp_path, **short)
    for name, value in whole.samples.items():
        np.testing.assert_array_equal(value, again.samples[name])
    shorn = draw(sites, recover=False, checkpoint=tmp_path, **short)
    assert "item_factors" not in shorn.samples
    assert {"intercept", "user_factors"} <= set(shorn.samples)


def test_draws_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin(*_: Any) -> None:
        raise RuntimeError("begun")

    monkeypatch.setattr(nuts, "_start", begin)
    # Twice what is sampled: two scales, levels and factors of the items. Once the users' rows.
    half = 8 * 10 * (2 * (2 + 2 * ITEMS) + 2 * USERS)
    for free, words in ((2 * half - 1, "disk with stream="), (2 * half, "begun")):
        monkeypatch.setattr("probmf.memory.free_memory", lambda free=free: free)
        with pytest.raises((ValueError, RuntimeError), match=words):
            draw(("user_bias", "user_factors"), num_samples=10, num_chains=1)


def test_other_sites_are_left_to_the_general_transform() -> None:
    model = make_model("fixed")
    (data,) = model.arguments(make_ratings())
    assert rows_marginal(model, data, ("user_factors",)) is None
    assert rows_marginal(model, data, ("user_bias", "item_bias", "user_factors")) is None


@pytest.mark.slow
def test_a_covariance_of_factors_is_left_to_it_too() -> None:
    model = replace(make_model("fixed"), user_scale=NormalWishart())
    (data,) = model.arguments(make_ratings())
    for side in SIDES:
        assert rows_marginal(model, data, own_sites(model, side)) is None
    short = {"num_warmup": 5, "num_samples": 5, "num_chains": 1}
    with jax.numpy_rank_promotion("allow"):  # NumPyro's Wishart needs it.
        fit = sample_nuts(
            model, make_ratings(), key=0, marginalize=own_sites(model, "user"), **short
        )
    assert fit.method == "nuts/marginal"
    assert {"user_mean", "user_precision", "user_factors"} <= set(fit.samples)


def test_errors() -> None:
    both = ("user_bias", "user_factors", "item_bias", "item_factors")
    with pytest.raises(ValueError, match="only one side can be integrated out"):
        sample_nuts(make_model("fixed"), make_ratings(), key=0, marginalize=both)
    yes_no = make_ratings().binarize(3.0)
    model = MatrixFactorization(2, Bernoulli())
    with pytest.raises(ValueError, match="under a Gaussian likelihood only"):
        sample_nuts(model, yes_no, key=0, marginalize=("user_bias", "user_factors"))


@pytest.mark.parametrize("case", slow(["sampled", "no own bias"], "no own bias"))
def test_stretched_coordinates_are_those_of_the_model_moved_linearly(case: str) -> None:
    with jax.enable_x64(True):
        target, _, values = setting(case)
        plain, stretched = Potential(target, (), {}), Stretched(target)
        vector = stretched.unconstrain(values)
        back = jax.jit(stretched.constrain)(vector)
        for name, value in values.items():
            np.testing.assert_allclose(back[name], value, atol=1e-12)
        np.testing.assert_allclose(
            stretched.value(vector), plain.value(plain.unconstrain(values)), rtol=1e-12
        )
