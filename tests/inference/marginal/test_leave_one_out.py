"""Rows and groups given all others, effects integrated out: against the densities without them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from marginal_models import EXAMPLES, GROUPS, ROWS, g, h, latents_of, x
from numpyro.distributions import constraints
from numpyro.infer.util import log_density
from rings import slow

from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError
from probmf.inference.marginal.left_out import LeftOut, determines

normal, sample, plate = dist.Normal, numpyro.sample, numpyro.plate


GAUSSIAN = ("slopes and means", "crossed", "masked", "logarithmic")


@pytest.mark.parametrize("name", slow(GAUSSIAN, "slopes and means", "crossed"))
def test_gaussian_rows_and_groups_given_the_others(name: str) -> None:
    """Against the ratio of the densities of all rows and of all others, rows being masked."""
    example = EXAMPLES[name]
    marginal = marginalize(example.model, example.sites)
    part = np.arange(ROWS) % 3
    with jax.enable_x64(True):
        latents = latents_of(example)
        prepared = marginal.prepare(**example.data)
        run = prepared.run(latents)
        kept = jax.jit(lambda keep: prepared.kept_density(run, latents, keep))
        whole = float(kept(jnp.ones(ROWS, bool)))
        rows = np.array([whole - float(kept(jnp.arange(ROWS) != n)) for n in range(ROWS)])
        parts = np.array([whole - float(kept(jnp.asarray(part != k))) for k in range(3)])
        twice = {site: jnp.stack([value, value]) for site, value in latents.items()}
        got = marginal.leave_one_out(twice, **example.data)
        by_part = marginal.leave_group_out(part, twice, **example.data)
        density = prepared.log_density(run, latents)
    assert whole == pytest.approx(float(density), rel=1e-12)
    np.testing.assert_allclose(got, [rows, rows], atol=1e-9)
    np.testing.assert_allclose(by_part, [parts, parts], atol=1e-9)


def test_rows_that_determine_effects_nearly_alone_keep_their_digits() -> None:
    """In single precision too, in which one less their leverage is rounding."""
    group = np.array([0, 0, 1, 2, 2, 2])
    y = np.array([1.0, 1.5, 3.0, -1.0, 0.5, 2.0])
    wide = 3e4

    def model(flat: bool) -> None:
        sample("scale", dist.HalfNormal(1.0))
        with plate("groups", 3):
            law = dist.ImproperUniform(constraints.real, (), ()) if flat else normal(0.0, wide)
            u = sample("u", law)
        sample("y", normal(u[group], 1.0), obs=y)

    latents = {"scale": np.ones(1, np.float32)}
    got = np.asarray(marginalize(model, "u").leave_one_out(latents, False))[0]
    same = (group[:, None] == group) & ~np.eye(6, dtype=bool)
    weight = same.sum(axis=1) + wide**-2
    law = st.norm((same @ y) / weight, np.sqrt(1.0 + 1.0 / weight))
    np.testing.assert_allclose(got, law.logpdf(y), rtol=1e-5)
    with pytest.raises(MarginalizeError, match=r"Without row 2 the others leave 'u' undetermined"):
        marginalize(model, "u").leave_one_out(latents, True)
    with pytest.raises(MarginalizeError, match=r"Without group 0 .* \(3 such groups\)"):
        marginalize(model, "u").leave_group_out(group, latents, True)


def test_a_row_that_alone_determines_a_flat_effect_has_no_density() -> None:
    """A dummy of one row, among columns that nearly depend on each other."""
    rng = np.random.default_rng(0)
    near = 3.0 + 0.05 * rng.normal(size=400)
    columns = np.stack([np.ones(400), near, near + 0.05 * rng.normal(size=400), np.eye(400)[7]], 1)

    def model(y: Any) -> None:
        scale = sample("scale", dist.HalfNormal(1.0))
        law = dist.ImproperUniform(constraints.real_vector, (), (4,))
        sample("y", normal(columns @ sample("b", law), scale), obs=y)

    y = rng.normal(size=400)
    with pytest.raises(MarginalizeError, match=r"Without row 7 .* \(1 such rows\)"):
        marginalize(model, "b").leave_one_out({"scale": np.ones(1)}, y)


@pytest.mark.parametrize(
    ("flat", "unit"),
    [(True, 1e-9), (False, 1.0), *(pytest.param(*case, marks=pytest.mark.slow)
                                   for case in ((True, 1.0), (False, 1e-9)))],
)  # fmt: skip
def test_a_row_of_an_outlying_covariate_has_a_density(flat: bool, unit: float) -> None:
    """Whatever its size and the columns' units, as the others determine everything."""
    rng, rows = np.random.default_rng(1), 30
    column = rng.normal(size=rows)
    column[4] = 1e6
    x, scale = np.stack([np.ones(rows), column], axis=1), 0.7
    units = np.array([1.0, unit])
    y = x @ [0.5, 2e-6] + scale * rng.normal(size=rows)

    def model(y: Any) -> None:
        sigma = sample("scale", dist.HalfNormal(1.0))
        law = dist.ImproperUniform(constraints.real_vector, (), (2,))
        b = sample("b", law if flat else normal(0.0, 3.0 / units).to_event(1))
        sample("y", normal((x * units) @ b, sigma), obs=y)

    samples, part = {"scale": np.array([scale])}, np.arange(rows) // 3
    marginal = marginalize(model, "b")
    got = marginal.leave_one_out(samples, y)[0]
    by_part = marginal.leave_group_out(part, samples, y)[0]
    prior = np.zeros((0, 2)) if flat else np.eye(2) * scale / 3.0

    def density(keep: np.ndarray) -> float:
        """But for what is the same for all rows."""
        padded = np.concatenate([y[keep], np.zeros(len(prior))])
        q, r = np.linalg.qr(np.concatenate([x[keep], prior]))
        error = padded - q @ (q.T @ padded)
        constant = 0.5 * keep.sum() * np.log(2 * np.pi * scale**2)
        return float(-constant - np.log(abs(r[0, 0] * r[1, 1])) - 0.5 * error @ error / scale**2)

    whole = density(np.ones(rows, bool))
    for left, found in [
        *((np.arange(rows) == n, got[n]) for n in (0, 4)), (part == 1, by_part[1])
    ]:  # fmt: skip
        assert float(found) == pytest.approx(whole - density(~left), abs=1e-6)


@pytest.mark.parametrize(
    "size", [1e-7, *(pytest.param(s, marks=pytest.mark.slow) for s in (1.0, 1e7))]
)
def test_what_other_rows_do_not_determine_is_found_from_their_rank(size: float) -> None:
    """Also beside an outlier, and where the column is a contrast, whose zeros are rounded."""
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1, 2], [10, 9, 1])
    contrast = np.array([[-0.7, 0.4], [0.1, -0.8], [0.6, 0.4]])[group] * size
    columns = np.stack([np.ones(20), rng.normal(size=20), *contrast.T], axis=1)
    columns[3, 1] = 1e5

    def model(y: Any) -> None:
        scale = sample("scale", dist.HalfNormal(1.0))
        law = dist.ImproperUniform(constraints.real_vector, (), (4,))
        sample("y", normal(columns @ sample("b", law), scale), obs=y)

    samples, y = {"scale": np.ones(2)}, rng.normal(size=20)
    with pytest.raises(MarginalizeError, match=r"Without row 19 .* \(1 such rows\)"):
        marginalize(model, "b").leave_one_out(samples, y)
    with pytest.raises(MarginalizeError, match=r"Without group 2 .* \(1 such groups\)"):
        marginalize(model, "b").leave_group_out(
            np.array([0, 1, 1, 0] * 4 + [0, 1, 1, 2]), samples, y
        )


def test_all_rows_left_out_at_once() -> None:
    """Leaves what the prior says of them, and nothing where the prior is flat."""
    x, y = np.random.default_rng(3).normal(size=(2, 6))

    def model(flat: bool) -> None:
        scale = sample("scale", dist.HalfNormal(1.0))
        law = dist.ImproperUniform(constraints.real_vector, (), (2,))
        b = sample("b", law if flat else normal(0.0, np.ones(2)).to_event(1))
        sample("y", normal(b[0] + b[1] * x, scale), obs=y)

    samples, whole, marginal = {"scale": np.ones(1)}, np.zeros(6, int), marginalize(model, "b")
    cover = np.eye(6) + 1.0 + np.outer(x, x)
    want = st.multivariate_normal(np.zeros(6), cover).logpdf(y)
    assert float(marginal.leave_group_out(whole, samples, False)[0, 0]) == pytest.approx(want)
    with pytest.raises(MarginalizeError, match=r"Without group 0 .* \(1 such groups\)"):
        marginal.leave_group_out(whole, samples, True)


@pytest.mark.parametrize("rows", [1_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_rank_does_not_depend_on_the_number_of_rows(rows: int) -> None:
    rng = np.random.default_rng(0)
    x = 1e9 + rng.uniform(size=rows)
    z = rng.normal(size=rows)
    assert determines(np.stack([np.ones(rows), x], axis=1))
    assert not determines(np.stack([np.ones(rows), x, z, 0.7 * z + 0.3], axis=1))
    assert not determines(np.stack([z, x, 0.1 * x + 0.3 * z], axis=1))


def test_a_row_beyond_all_measure_leaves_the_others_determined() -> None:
    """Of an outlier of 1e18 nothing is left in the others' columns, nor in what they say."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 20))
    x[4] = 1e18

    def model(y: Any) -> None:
        law = dist.ImproperUniform(constraints.real_vector, (), (2,))
        b = sample("b", law)
        sample("y", normal(b[0] + b[1] * x, sample("scale", dist.HalfNormal(1.0))), obs=y)

    marginal, part = marginalize(model, "b"), np.arange(20) // 2
    prepared = marginal.prepare(y)
    with jax.enable_x64(True):
        alone = LeftOut(prepared, {"scale": jnp.ones(1)})
        np.testing.assert_array_equal(np.flatnonzero(alone.is_close(None)), [4])
        np.testing.assert_array_equal(np.flatnonzero(alone.is_close(part)), [2])
        assert np.isfinite(alone(np.arange(20) == 4)).all()


@pytest.mark.slow
def test_rows_alone_in_their_groups_keep_their_digits_from_one_factorization() -> None:
    """Noise a two-thousandth of the effects; against the rows' law, effects being noise too."""
    rng, rows, tau, noise = np.random.default_rng(6), 30, 0.8, 4e-4
    x, y = rng.normal(size=(2, rows))

    def model(y: Any) -> None:
        scale = sample("scale", dist.HalfNormal(1.0))
        b = sample("b", normal(0.0, 3.0))
        with plate("ids", rows):
            u = sample("u", normal(0.0, tau))
        sample("y", normal(b * x + u, scale), obs=y)

    with jax.enable_x64(True):
        prepared = marginalize(model, ("b", "u")).prepare(y)
        got = prepared.rows_left_out({"scale": jnp.asarray(noise)})
    variance = tau**2 + noise**2
    weight = np.sum(x**2) - x**2 + variance / 9.0
    law = st.norm(x * (x @ y - x * y) / weight, np.sqrt(variance * (1.0 + x**2 / weight)))
    np.testing.assert_allclose(got, law.logpdf(y), atol=1e-8)


def test_gaussian_rows_against_refits_without_them() -> None:
    """The model is run on the other rows, and predicts the one that is left out."""

    def model(group: Any, x: Any, y: Any) -> None:
        tau = sample("tau", dist.HalfNormal(1.0))
        b = sample("b", normal(0, 2))
        with plate("groups", GROUPS):
            u = sample("u", normal(0, tau))
        with plate("rows", len(y)):
            sample("y", normal(u[group] + b * x, 0.6), obs=y)

    y, tau = EXAMPLES["crossed"].data["y"], 0.8
    with jax.enable_x64(True):
        latents = {"tau": jnp.asarray([tau])}
        got = marginalize(model).leave_one_out(latents, g, x, y)[0]
        parts = marginalize(model).leave_group_out(g, latents, g, x, y)[0]
    cover = tau**2 * (g[:, None] == g) + 4.0 * np.outer(x, x) + 0.36 * np.eye(ROWS)
    for one, left in [(np.arange(ROWS) == n, got[n]) for n in (0, 7, 19)] + [
        (g == k, parts[k]) for k in range(GROUPS - 1)
    ]:
        solved = np.linalg.solve(cover[np.ix_(~one, ~one)], cover[np.ix_(~one, one)])
        mean = solved.T @ y[~one]
        spread = cover[np.ix_(one, one)] - cover[np.ix_(one, ~one)] @ solved
        error = y[one] - mean
        want = -0.5 * (
            error @ np.linalg.solve(spread, error) + np.linalg.slogdet(2 * np.pi * spread)[1]
        )
        assert float(left) == pytest.approx(float(want), abs=1e-9)


def counted(group: Any, y: Any) -> None:
    a = sample("a", normal(0, 1))
    tau = sample("tau", dist.HalfNormal(1.0))
    with plate("groups", GROUPS):
        u = sample("u", normal(a, tau))
    with plate("rows", len(y)):
        sample("y", dist.Poisson(jnp.exp(u[group])), obs=y)


@pytest.mark.parametrize("sites", ["u", pytest.param(("u", "a"), marks=pytest.mark.slow)])
def test_counts_given_the_others_against_fits_without_them(sites: Any) -> None:
    """Of each fit without rows the density of the rest is subtracted, by quadrature or Laplace's.

    Large counts have conditionals far narrower than the prior, which is what is left of a group
    without its rows.
    """
    y = np.random.default_rng(4).poisson(40.0 * np.exp(0.3 * h))[:12]
    group = g[:12]
    marginal = marginalize(counted, sites)
    latents = {"a": jnp.asarray([0.5]), "tau": jnp.asarray([1.5])}
    latents = {site: value for site, value in latents.items() if site not in sites}

    def density(keep: np.ndarray) -> float:
        own = {site: value[0] for site, value in latents.items()}
        marginal.prepare(group[keep], y[keep])
        run = jax.jit(lambda: log_density(marginal, (group[keep], y[keep]), {}, own)[0])
        return float(run())

    with jax.enable_x64(True):
        whole = density(np.ones(12, bool))
        row = whole - density(np.arange(12) != 5)
        own = [whole - density(group != group[0])]
        got = marginal.leave_one_out(latents, group, y)[0]
        by_group = marginal.leave_group_out(group, latents, group, y)[0]
    np.testing.assert_allclose(got[5], row, atol=1e-7)
    np.testing.assert_allclose(by_group[group[0]], own[0], atol=1e-7)


def test_bad_groups_are_refused() -> None:
    example = EXAMPLES["intercepts"]
    samples = {"tau": np.ones(2), "sigma": np.ones(2)}
    with pytest.raises(
        ValueError, match=r"group has shape \(3,\); expected a label for each of 20"
    ):
        marginalize(example.model).leave_group_out([0, 1, 2], samples, **example.data)
