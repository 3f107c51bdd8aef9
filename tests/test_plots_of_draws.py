"""Plots of draws: what the axes hold, not how it looks."""

from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from probmf import MatrixFactorization, Ratings, plots
from probmf.models import MixedEffects
from probmf.plots.posterior import _rank_band
from probmf.results import MixedFit, RatingsFit, Sampling
from probmf.results.table import Table

SHAPE = (2, 100)


def sampling(**stats: Any) -> Sampling:
    energy = np.random.default_rng(0).normal(0, 1, SHAPE)
    return Sampling({"energy": energy} | stats, 10, 0.1)


def factorization() -> RatingsFit:
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((8, 6)) < 0.7)
    data = Ratings.from_frame({"user": user, "item": item, "rating": rng.normal(3, 1, len(user))})
    model = MatrixFactorization(2)
    samples: dict[str, Any] = {"intercept": np.full(SHAPE, 3.0)}
    for site, shape in model.site_shapes(8, 6).items():
        samples[site] = rng.normal(1, 0.3, (*SHAPE, *shape))
    return RatingsFit(model, data, samples, "nuts", sampling=sampling())


def mixed(num_groups: int = 5, run: Sampling | None = None) -> MixedFit:
    rng = np.random.default_rng(0)
    model = MixedEffects("y ~ x + (1 + x || g)", likelihood="gaussian")
    n = 4 * num_groups
    design = model.design({
        "y": rng.normal(0, 1, n), "x": rng.normal(0, 1, n),
        "g": [f"group {i % num_groups}" for i in range(n)],
    })  # fmt: skip
    empty = MixedFit(model, design, {"noise_scale": np.ones((1, 1))}, "")
    samples = {site: rng.normal(1, 0.1, (*SHAPE, *shape))
               for site, shape in empty.site_shapes.items()}  # fmt: skip
    return MixedFit(model, design, samples, "nuts", run or sampling())


def correlated() -> MixedFit:
    """A fit with two columns of effects in one term."""
    rng = np.random.default_rng(0)
    model = MixedEffects("y ~ x + (1 + x | g)")
    table = {"y": rng.normal(0, 1, 20), "x": rng.normal(0, 1, 20), "g": np.arange(20) % 5}
    empty = MixedFit(model, model.design(table), {"noise_scale": np.ones((1, 1))}, "")
    samples = {site: rng.normal(1, 0.1, (*SHAPE, *shape))
               for site, shape in empty.site_shapes.items()}  # fmt: skip
    return MixedFit(model, empty.design, samples, "nuts", sampling())


def titles(figure: Figure) -> list[str]:
    return [title for ax in figure.axes if (title := ax.get_title(loc="left"))]


def test_figures_are_not_left_with_pyplot() -> None:
    for fit in (factorization(), mixed()):
        for figure in (
            plots.ranks(fit), plots.energy(fit), plots.predictive_check(fit, key=0, num_samples=3),
            plots.diagnostics(fit, probes=5), plots.trace(fit),
            plots.predictive_check(
                fit, key=0, num_samples=3, by="g" if isinstance(fit, MixedFit) else "item"
            ),
        ):  # fmt: skip
            assert isinstance(figure, Figure)
    assert plt.get_fignums() == []


def test_ranks_of_what_is_identified() -> None:
    assert titles(plots.ranks(factorization())) == [
        "prediction", "singular_value[0]", "singular_value[1]",
    ]  # fmt: skip
    assert titles(plots.ranks(mixed(), var_names=["coefficients", "noise_scale"])) == [
        "coefficients[Intercept]", "coefficients[x]", "noise_scale",
    ]  # fmt: skip


def test_traces_are_the_draws_of_the_chains() -> None:
    fit = mixed()
    figure = plots.trace(fit, var_names=["noise_scale"])
    assert titles(figure) == ["noise_scale"]
    chains = [np.asarray(line.get_ydata()) for line in figure.axes[1].get_lines()]
    np.testing.assert_allclose(chains, fit.samples["noise_scale"])
    long = {name: np.repeat(value, 30, axis=1) for name, value in fit.samples.items()}
    run = Sampling({}, 0, 0.0)
    figure = plots.trace(MixedFit(fit.model, fit.design, long, "x", run), var_names="noise_scale")
    (low, high), values = figure.axes[1].get_ylim(), fit.samples["noise_scale"]
    assert len(figure.axes[1].get_lines()) == 0
    assert low < values.min() < values.max() < high


def test_ranks_show_a_chain_that_is_elsewhere() -> None:
    def outside(shift: float) -> bool:
        rng = np.random.default_rng(0)
        fit = mixed()
        draws = rng.normal(size=(2, 400))
        draws[0] += shift
        samples = {name: np.tile(value, (1, 4, *[1] * (value.ndim - 2)))
                   for name, value in fit.samples.items()}  # fmt: skip
        samples["noise_scale"] = np.exp(draws)
        moved = MixedFit(fit.model, fit.design, samples, "x", Sampling({}, 0, 0.0))
        ax = plots.ranks(moved, var_names="noise_scale").axes[0]
        (path,) = ax.collections[0].get_paths()
        half = path.vertices[:, 1].max()
        return any(np.abs(np.asarray(line.get_ydata())).max() > half for line in ax.get_lines())

    assert not outside(0.0)
    assert outside(0.4)


def test_band_of_ranks_holds_95_percent_of_what_is_uniform() -> None:
    rng, share = np.random.default_rng(1), np.linspace(0, 1, 100)
    half = _rank_band(share, 2) / np.sqrt(150)
    held = 0
    for _ in range(300):
        rank = (1 + rng.permutation(300)[:150]) / 300
        below = np.searchsorted(np.sort(rank), share, side="right") / 150
        held += bool(np.all(np.abs(below - share) <= half + 1e-12))
    assert 0.9 < held / 300 < 0.99


def test_forest_has_the_labels_of_the_user() -> None:
    fit = mixed()
    figure = plots.forest(fit, var_names="g_effects", coords={"g": ["group 1", "group 3"]})
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["group 1, Intercept", "group 3, Intercept"]
    means = fit.samples["g_effects"][..., 0].mean(axis=(0, 1))
    np.testing.assert_allclose(ax.lines[0].get_xdata(), means[[1, 3]])
    figure = plots.forest(fit)
    labels = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
    assert labels == ["Intercept", "x", "Intercept", "x", "noise_scale"]
    assert titles(figure)[0].startswith("coefficients  (means, 90% and 50% intervals)")
    # An intercept has a panel of its own: in units of the response others may look like dots.
    assert [len(ax.get_yticklabels()) for ax in figure.axes] == [1, 1, 1, 1, 1]
    many = plots.forest(mixed(num_groups=70), var_names=["g_effects"]).axes[0]
    assert many.get_ylabel() == "70 in order"
    assert np.all(np.diff(many.lines[0].get_xdata()) <= 0)
    with pytest.raises(ValueError, match="coords has 'lake' for 'g', whose labels are group 0"):
        plots.forest(fit, var_names="g_effects", coords={"g": ["lake"]})


def test_predictive_check_by_group() -> None:
    fit = mixed()
    ax = plots.predictive_check(fit, key=0, num_samples=40, by="g").axes[0]
    response = np.asarray(fit.design.data.response)
    observed = np.array([response[n::5].mean() for n in range(5)])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.sort(observed), rtol=1e-6)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"group {n}" for n in np.argsort(observed)]
    assert ax.get_title(loc="left").startswith("mean of y by g: ")
    spread = plots.predictive_check(
        fit, key=0, num_samples=4, by=np.arange(20) % 2, statistic="sd"
    ).axes[0]
    np.testing.assert_allclose(
        spread.lines[0].get_xdata(), sorted([response[::2].std(), response[1::2].std()]), rtol=1e-5
    )
    with pytest.raises(ValueError, match="by is 'h'; expected 'g', or one label for each"):
        plots.predictive_check(fit, key=0, by="h")
    with pytest.raises(ValueError, match="by has 3 labels; give one for each of the 20 training"):
        plots.predictive_check(fit, key=0, by=[1, 2, 3])
    with pytest.raises(ValueError, match="statistic is 'max'; expected 'mean' or 'sd'"):
        plots.predictive_check(fit, key=0, statistic="max")  # type: ignore[arg-type]


def test_predictive_check_holds_every_row() -> None:
    ax = plots.predictive_check(mixed(), key=0, num_samples=5).axes[0]
    band, observed = (patch.get_data() for patch in ax.patches)  # type: ignore[attr-defined]
    assert observed.values.sum() == pytest.approx(1.0)
    assert np.all(band.baseline <= band.values)


def test_profile_of_a_user() -> None:
    fit = factorization()
    user = fit.data.users.ids[2]
    rated, recommended, bias, similar = plots.user_profile(fit, user, k=3).axes
    rows = np.flatnonzero(fit.data.user == 2)
    shown = np.asarray(rated.lines[1].get_xdata())
    rating = np.sort(fit.data.rating[rows])
    expected = rating if len(rows) <= 6 else np.concatenate([rating[:3], rating[-3:]])
    np.testing.assert_allclose(shown, expected)
    best = fit.recommend([user], k=min(3, 6 - len(rows)))
    np.testing.assert_allclose(recommended.lines[0].get_xdata(), best.score[0], rtol=1e-6)
    mean = fit.samples["user_bias"].mean(axis=(0, 1))
    assert bias.get_title(loc="left") == f"Higher than {np.mean(mean < mean[2]):.0%} of users"
    names = [label.get_text() for label in similar.get_yticklabels()]
    assert names == [str(own) for own in fit.similar_users(user, k=5).item[0]][::-1]
    with pytest.raises(ValueError, match="user"):
        plots.user_profile(fit, "nobody")
    with pytest.raises(TypeError, match="fit is a MixedFit, expected a RatingsFit"):
        plots.user_profile(mixed(), 1)  # type: ignore[arg-type]


def test_effects_of_several_columns_side_by_side() -> None:
    fit = correlated()
    first, second = plots.effects(fit, "g").axes
    draws = fit.samples["g_effects"]
    order = np.argsort(draws[..., 0].mean(axis=(0, 1)))
    for place, ax in enumerate((first, second)):
        means = draws[..., place].mean(axis=(0, 1))[order]
        np.testing.assert_allclose(ax.lines[0].get_xdata(), means)
    assert second.get_title(loc="left") == "x"
    assert len(plots.effects(fit, "g", column="x").axes) == 1
    with pytest.raises(ValueError, match="ax holds 1 axes; give one for each of 2 columns"):
        plots.effects(fit, "g", ax=first)


def test_confidence_intervals_of_a_best_fit() -> None:
    rows = [
        ("coefficients[Intercept]", 1.0, -0.5, 2.0), ("coefficients[x]", 2.0, None, None),
        ("coefficients[z]", 3.0, 1.0, np.inf), ("g_scale[Intercept]", 0.2, 0.0, 0.9),
    ]  # fmt: skip
    found = Table(
        tuple(dict(zip(("name", "estimate", "lower", "upper"), r, strict=True)) for r in rows)
    )
    figure = plots.confidence_intervals(found)
    labels = [[own.get_text() for own in ax.get_yticklabels()] for ax in figure.axes]
    assert labels == [["Intercept"], ["x", "z"], ["Intercept"]]
    assert titles(figure) == ["coefficients  (estimates and confidence intervals)", "g_scale"]
    first, second, third = figure.axes
    assert first.collections[0].get_segments()[0][:, 0].tolist() == [-0.5, 2.0]
    assert third.collections[0].get_segments()[0][:, 0].tolist() == [0.0, 0.9]
    # Without an interval a dot; without an end an arrow at the edge.
    lines = [segment[:, 0].tolist() for segment in second.collections[0].get_segments()]
    assert lines == [[2.0, 2.0], [1.0, 3.0]]
    arrow = second.lines[-1]
    assert (arrow.get_marker(), arrow.get_xdata()[0]) == (">", second.get_xlim()[1])
    assert len(plots.confidence_intervals(found, var_names=["g_scale"]).axes) == 1
    with pytest.raises(ValueError, match="var_names holds 'sigma', but there are: coeff"):
        plots.confidence_intervals(found, var_names=["sigma"])
    with pytest.raises(TypeError, match=r"found is a MixedFit, expected the table that confint"):
        plots.confidence_intervals(mixed())  # type: ignore[arg-type]


def test_effects_in_order() -> None:
    fit = mixed()
    ax = plots.effects(fit, "g_x").axes[0]
    means = fit.samples["g_x_effects"][..., 0].mean(axis=(0, 1))
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.sort(means))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"group {i}" for i in np.argsort(means)]
    ends = np.array([line[:, 0] for line in ax.collections[0].get_segments()])
    expected = np.quantile(fit.samples["g_x_effects"][..., 0], [0.05, 0.95], axis=(0, 1))
    np.testing.assert_allclose(ends, expected.T[np.argsort(means)])
    assert ax.get_title(loc="left") == "x by g, 90% and 50% intervals"
    assert plots.effects(fit, "g_effects", column=["Intercept"], ax=[ax]) is ax.figure


def test_effects_of_many_groups_and_of_a_point() -> None:
    fit = mixed(num_groups=80)
    ax = plots.effects(fit, "g").axes[0]
    assert ax.get_ylabel() == "80 groups in order"
    one = {name: value[:1, :1] for name, value in fit.samples.items()}
    point = MixedFit(fit.model, fit.design, one, "marginal")
    ax = plots.effects(point, "g").axes[0]
    assert len(ax.collections) == 0
    assert ax.get_title(loc="left") == "Intercept by g"


def test_diagnostics_mark_what_is_beyond_the_limits() -> None:
    fit = mixed()
    shifted = np.array(fit.samples["noise_scale"])
    shifted[0] += 1.0
    bad = MixedFit(fit.model, fit.design, dict(fit.samples) | {"noise_scale": shifted}, "nuts")
    figure = plots.diagnostics(bad)
    assert len(figure.axes) == 2
    orange = figure.axes[0].lines[1]
    place = [label.get_text() for label in figure.axes[0].get_yticklabels()].index("noise_scale")
    assert place in orange.get_ydata()
    assert len(plots.diagnostics(fit).axes) == 3


def test_errors() -> None:
    fit = mixed()
    point = MixedFit(fit.model, fit.design, {k: v[:1, :1] for k, v in fit.samples.items()}, "x")
    for draw in (plots.ranks, plots.forest, plots.energy):
        with pytest.raises(ValueError, match="fit by 'x' is a point without draws"):
            draw(point)
        with pytest.raises(TypeError, match="fit is a str, expected a RatingsFit, a MixedFit"):
            draw("fit")  # type: ignore[operator]
    with pytest.raises(ValueError, match="is a point without draws"):
        plots.predictive_check(point, key=0)
    with pytest.raises(ValueError, match="num_samples is 0; expected at least 1"):
        plots.predictive_check(fit, key=0, num_samples=0)
    with pytest.raises(ValueError, match="fit by 'nuts' has no energies; only Hamiltonian"):
        plots.energy(mixed(run=Sampling({}, 0, 0.0)))
    for draw in (plots.ranks, plots.forest):
        with pytest.raises(ValueError, match="var_names holds 'sigma', but there are: coeff"):
            draw(fit, var_names=["sigma"])
    with pytest.raises(TypeError, match="fit is a RatingsFit, expected a MixedFit"):
        plots.effects(factorization(), "g")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no group term 'h'; its terms are 'g', 'g_x'"):
        plots.effects(fit, "h")
    with pytest.raises(ValueError, match="term 'g' has no effect 'x'; its effects are 'Intercept'"):
        plots.effects(fit, "g", column="x")
    with pytest.raises(ValueError, match="interval is 1; expected a probability between"):
        plots.effects(fit, "g", interval=1)
    rest = {name: value for name, value in fit.samples.items() if name != "g_effects"}
    with pytest.raises(ValueError, match="no draws of g_effects: the sampler integrated"):
        plots.effects(MixedFit(fit.model, fit.design, rest, "nuts"), "g")


def test_map_of_draws_undoes_their_rotations() -> None:
    fit = factorization()
    rng = np.random.default_rng(1)
    angle = rng.uniform(0, 2 * np.pi, SHAPE)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1)
    turn = turn.reshape(*SHAPE, 2, 2)
    turned = {name: fit.samples[name] @ turn for name in ("user_factors", "item_factors")}
    other = RatingsFit(
        fit.model, fit.data, dict(fit.samples) | turned, "nuts", sampling=fit.sampling
    )
    titles = [f"film {n}" for n in range(6)]
    maps = [plots.factor_map(each, titles=titles, num_labels=6).axes[0] for each in (fit, other)]
    dots = [np.asarray(ax.collections[1].get_offsets()) for ax in maps]
    np.testing.assert_allclose(dots[0], dots[1], atol=1e-6)
    assert len(maps[0].patches) == 5
    assert {text.get_text() for text in maps[0].texts} & set(titles)
    with pytest.raises(ValueError, match="titles has 2 entries; give one for each of the 6 items"):
        plots.factor_map(fit, titles=["a", "b"])


def test_spectrum_has_an_interval_for_each_singular_value() -> None:
    fit = factorization()
    ax = plots.spectrum(fit).axes[0]
    users, items = fit.samples["user_factors"], fit.samples["item_factors"]
    value = np.linalg.svd(users @ np.swapaxes(items, 2, 3), compute_uv=False)[:, :, :2]
    value = value.reshape(-1, 2) / np.sqrt(8 * 6)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(value, axis=0), rtol=1e-6)
    ends = np.asarray(ax.collections[0].get_segments())[:, :, 1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(ends.T, np.quantile(value, [0.05, 0.95], axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="interval is 2"):
        plots.spectrum(fit, interval=2)


def test_estimates_along_a_column_and_one_by_one() -> None:
    bare = mixed()
    n = bare.design.data.num_observations
    data = {"x": np.linspace(0, 1, n), "g": [f"group {i % 5}" for i in range(n)]}
    fit = MixedFit(bare.model, bare.design, bare.samples, "nuts", sampling(), data=data)
    grid = fit.datagrid(x=np.linspace(0, 1, 9), g=["group 1", "group 3"])
    found = fit.predictions(grid)
    ax = plots.estimates(found, "x", color="g").axes[0]
    assert [line.get_label() for line in ax.lines] == ["group 1", "group 3"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), found.mean[1::2])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "expected y")
    # Other groups vary within the one colour, so that there is no curve.
    dots = plots.estimates(found, "x").axes[0].lines[0]
    assert (dots.get_linestyle(), dots.get_marker()) == ("None", "o")
    # Levels have a colour each without being asked to.
    shares = replace(found, columns={"x": found.columns["x"], "level": found.columns["g"]})
    ax = plots.estimates(shares, "x").axes[0]
    assert [line.get_label() for line in ax.lines] == ["group 1", "group 3"]
    assert ax.get_ylabel() == "probability of y"
    slopes = fit.slopes(by="g")
    ax = plots.estimates(slopes, "g").axes[0]
    assert ax.get_ylabel() == "slope of y by x"
    np.testing.assert_allclose(
        [line[:, 1] for line in ax.collections[0].get_segments()],
        np.stack([slopes.lower, slopes.upper], axis=1),
    )
    ax = plots.estimates(slopes).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), slopes.mean[::-1])
    assert [text.get_text() for text in ax.get_yticklabels()][-1] == "group 0"
    # Numbers that four digits don't tell apart have lines of their own; ratios compare with one.
    grid = {"x": np.tile(np.linspace(0, 1, 9), 2), "g": ["group 1"] * 18}
    near = fit.predictions(grid | {"w": np.repeat([12340.0, 12340.5], 9)}, by=["x", "w"])
    ax = plots.estimates(near, "x", color="w").axes[0]
    assert [line.get_label() for line in ax.lines] == ["12340", "12340.5"]
    ratios = replace(slopes, what="comparisons", comparison="ratio", mean=slopes.mean * 0 + 1)
    assert plots.estimates(ratios, "g").axes[0].lines[-1].get_ydata() == [1.0, 1.0]
    with pytest.raises(TypeError, match=r"found is a MixedFit, expected what fit.predictions"):
        plots.estimates(fit)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"There is no column 'z'; there are: 'term', 'contrast', "
    ):
        plots.estimates(slopes, "z")
    many = fit.comparisons(variables=["x", "g"], by="g")
    with pytest.raises(ValueError, match="in one colour; choose one with variables=, or give col"):
        plots.estimates(many, "g")
