"""What a mixed model's data say of its effects is what probing the model finds."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

from probmf import MixedEffects, fit_marginal, marginalize
from probmf.inference.marginal import prepare as prepare_module
from probmf.inference.marginal.injection import MarginalizeError
from probmf.inference.marginal.prepare import prepare
from probmf.inference.marginal.prepared import Prepared

ROWS = 40
_rng = np.random.default_rng(0)
TABLE = {
    "y": np.exp(0.3 * _rng.normal(size=ROWS)),
    "x": _rng.normal(1e4, 5e3, ROWS),
    "w": np.where(np.arange(ROWS) % 5 == 0, _rng.normal(size=ROWS), 0.0),
    "f": np.array(list("abc"))[_rng.permutation(np.arange(ROWS) % 3)],
    "g": _rng.permutation(np.arange(ROWS) % 7),
    "h": np.arange(ROWS) % 4,
    "k": np.arange(ROWS) % 8,
}

MODELS: dict[str, tuple[MixedEffects, tuple[str, ...]]] = {
    "correlated, crossed": (MixedEffects("y ~ x + w + (x | g) + (1 | h)"), ()),
    "uncorrelated": (MixedEffects("y ~ x + (x || g)"), ()),
    "nested": (MixedEffects("y ~ x + (1 | h/f)"), ()),
    "zero slopes": (MixedEffects("y ~ 1 + (0 + w | g) + (1 | h)"), ()),
    "no coefficients": (MixedEffects("y ~ 0 + (1 | g)"), ()),
    "levels": (MixedEffects("y ~ 1 + (0 + f | g)"), ()),
    "noise": (MixedEffects("y ~ x + (1 | g)", scale_formula="~ w + (1 | h)"), ()),
    "cells": (MixedEffects("y ~ 1 + (1 | h)", scale_formula="~ 1 + f"), ()),
    "lognormal": (MixedEffects("y ~ x + (1 | g)", likelihood="lognormal"), ()),
    "fixed scales": (MixedEffects("y ~ x + (1 | g)", priors={"g_scale": 2.0}), ()),
    "other sites": (MixedEffects("y ~ x + (1 | g) + (1 | h)"), ("h_effects", "coefficients")),
    "standardized": (MixedEffects("y ~ x + (x | g)", centered=False), ()),
    "own prior": (
        MixedEffects("y ~ x + (1 | g)", priors={"coefficients": {"x": dist.Normal(2.0, 0.1)}}), (),
    ),
}  # fmt: skip
#: Models whose density and draws are compared as well: they are functions of what was found.
DRAWN = ("correlated, crossed", "noise", "lognormal")


def both(model: MixedEffects, sites: tuple[str, ...], arguments: Any) -> tuple[Prepared, Prepared]:
    known = prepare(model.program, sites, arguments, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "mixed_structure", lambda *_: None)
        return known, prepare(model.program, sites, arguments, {})


@pytest.mark.parametrize("name", MODELS)
def test_the_same_is_found(name: str) -> None:
    model, sites = MODELS[name]
    with jax.enable_x64(True):
        design = model.design(TABLE)
        sites = sites or model.effect_sites(design)
        arguments = model.arguments(design, join=True)
        known, probed = both(model, sites, arguments)
        for attribute in (
            "target", "hidden", "shapes", "latent_shapes", "shared_noise", "fixed_priors",
        ):  # fmt: skip
            assert getattr(known, attribute) == getattr(probed, attribute), attribute
        assert list(known.latent_shapes) == list(probed.latent_shapes)
        assert [block.num_groups for block in known.blocks] == [
            block.num_groups for block in probed.blocks
        ]
        for one, other in zip(known.designs, probed.designs, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                np.testing.assert_allclose(one, other, rtol=1e-15)
        assert (known.statistics is None) == (probed.statistics is None)
        for got, wanted in zip(
            jax.tree.leaves(known.statistics), jax.tree.leaves(probed.statistics), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        if name not in DRAWN:
            return
        latents = {
            site: 0.5 * jnp.ones(shape) if "correlation" not in site else jnp.eye(shape[0])
            for site, shape in known.latent_shapes.items()
        }
        values = [jax.jit(one.draw)(latents, jax.random.key(0)) for one in (known, probed)]
    (got, effects), (wanted, others) = values
    assert got == pytest.approx(float(wanted), rel=1e-12)
    assert set(effects) == set(others)
    for site, effect in effects.items():
        np.testing.assert_allclose(effect, others[site], rtol=1e-9, atol=1e-12)


def test_mixed_models_are_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(prepare_module, "Probe", probe)
    model = MixedEffects("y ~ x + (x | g)")
    marginal = marginalize(model, model.effect_sites(model.design(TABLE)))
    assert marginal.prepare(*model.arguments(TABLE)).statistics is not None


def test_effects_given_other_data_of_the_same_shapes_trace_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced, draw = [], Prepared.draw

    def counted(self: Prepared, *args: Any) -> Any:
        traced.append(self)
        return draw(self, *args)

    monkeypatch.setattr(Prepared, "draw", counted)
    for place, shift in enumerate((0.0, 1.0)):
        model = MixedEffects("y ~ x + w + (1 | g) + (1 | h)")
        (data,) = model.arguments(TABLE | {"y": TABLE["y"] + shift})
        marginal = marginalize(model, model.effect_sites(data))
        prepared = marginal.prepare(data)
        latents = {name: jnp.ones((1, *shape)) for name, shape in prepared.latent_shapes.items()}
        found = marginal.recover(0, latents, data)
        assert len(traced) == 1, place
        at = {name: value[0] for name, value in latents.items()}
        key = jax.random.split(jax.random.key(0), 1)[0]
        _, alone = jax.jit(partial(draw, prepared))(at, key)
        for site, effects in alone.items():
            np.testing.assert_allclose(found[site][0], effects, rtol=1e-3, atol=1e-4)


def test_more_levels_than_groups_are_one_block_with_a_flat_prior() -> None:
    """Indicators of levels are not taken for groups, whose largest leads and can't be flat."""
    model = MixedEffects("y ~ 0 + C(k) + (1 | g)")
    fits = [
        fit_marginal(model, TABLE, objective="restricted"),
        fit_marginal(MixedEffects("y ~ C(k) + (1 | g)"), TABLE, objective="restricted"),
    ]
    one, other = (-fit.history.objective[-1] for fit in fits)
    assert one == pytest.approx(other, rel=1e-7)  # The coefficients differ by a matrix of det 1.
    np.testing.assert_allclose(
        fits[0].samples["noise_scale"], fits[1].samples["noise_scale"], rtol=1e-4
    )


def test_codes_out_of_range_are_refused() -> None:
    model = MixedEffects("y ~ 1 + (1 | g)")
    (data,) = model.arguments(TABLE)
    term = replace(data.groups[0], group=data.groups[0].group.at[3].set(7))
    wrong = replace(data, mean=replace(data.mean, groups=(term,)))
    with pytest.raises(MarginalizeError, match=r"codes of 'g' hold 7 in row 3; expected 0\.\.6"):
        log_density(marginalize(model, "g_effects"), (wrong,), {}, {})


def test_columns_that_are_not_finite_are_refused() -> None:
    model = MixedEffects("y ~ x + (1 | g)")
    (data,) = model.arguments(TABLE)
    wrong = replace(data, mean=replace(data.mean, population=data.population.at[2, 1].set(jnp.nan)))
    with pytest.raises(MarginalizeError, match="columns of 'coefficients' are not finite in row 2"):
        log_density(marginalize(model, "coefficients"), (wrong,), {}, {})


def test_too_many_coefficients_are_refused() -> None:
    model = MixedEffects("y ~ x + (1 | g)")
    (data,) = model.arguments(TABLE)
    names = tuple(f"x{i}" for i in range(300))
    priors = {**data.priors, "coefficients": dist.Normal(jnp.zeros(300), 1.0)}
    mean = replace(data.mean, population=jnp.ones((ROWS, 300)), names=names)
    with pytest.raises(MarginalizeError, match=r"'coefficients', of shape \(300,\); beyond 256"):
        log_density(marginalize(model, "coefficients"), (replace(data, mean=mean, priors=priors),),
                    {}, {})  # fmt: skip
