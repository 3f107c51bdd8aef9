"""Random mixed designs against a dense normal in sixty digits, or an error that names a column.

Columns lie up to 1e9 times their standard deviation from zero, and effects have scales about their
default priors or up to a million times the noise. The tolerance is what a thousand roundings of the
data themselves would change: the largest change of the exact density when every number of the
columns is moved by a random rounding, a thousand times over, 1e-9 of the density's own size, and
four times the error that is estimated; but no more than an error that is not told. What is told has
effects of ten thousand times the noise.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_normal import exact, exact_log_density
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpyro.infer.util import log_density
from scipy.linalg import block_diag

from probmf import MixedEffects, marginalize
from probmf.effects import log_evidence
from probmf.effects.host import HostEvidence, has_host_form
from probmf.effects.rounding import MOST_NATS, MOST_SHARE, Rounding
from probmf.inference.marginal.injection import MarginalizeError
from probmf.models.mixed.arrays import MixedData

#: Few shapes, so that few programs are compiled.
ROWS = 24
EPSILON = float(np.finfo(float).eps)
#: Effects that are fewer times the noise on the rows of a group must not be told to lose digits.
LEAST_LOSS = 1e4


class Case(NamedTuple):
    table: dict[str, np.ndarray]
    formula: str
    unused: int
    probed: bool
    seed: int


@st.composite
def columns(draw: st.DrawFn, before: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Of any unit, about any level; some constant, some combinations of those before."""
    kind = draw(st.sampled_from(["normal", "normal", "heavy", "years", "same", "combination"]))
    unit = 10.0 ** draw(st.floats(-9, 9))
    level = draw(st.sampled_from([0.0, 0.0, 1.0, -1.0])) * 10.0 ** draw(st.floats(0, 9))
    if kind == "combination" and before:
        return np.asarray(unit * (before[-1] + level * np.max(np.abs(before[-1]))))
    if kind == "years":
        return 2000.0 + rng.integers(0, 20, ROWS)
    if kind == "same":
        return np.full(ROWS, unit)
    values = rng.normal(size=ROWS)
    return np.asarray(unit * (level + (np.exp(3 * values) if kind == "heavy" else values)))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    table: dict[str, np.ndarray] = {}
    for name in ("x", "w")[: draw(st.integers(0, 2))]:
        table[name] = draw(columns(list(table.values()), rng))
    fixed = draw(st.sampled_from(["1", "0"])) if table else "1"
    terms = [fixed, *(name for name in table if draw(st.booleans()))]
    used = list(table)
    table["g"] = rng.permutation(np.arange(ROWS) % 6)
    table["h"] = rng.permutation(np.arange(ROWS) % 4)
    left = draw(st.sampled_from(["1", *(f"{i} + {c}" for c in used for i in "01")]))
    bar = draw(st.sampled_from(["|", "||"]))
    terms.append(f"({left} {bar} g)")
    other = draw(st.sampled_from(["", "(1 | h)", "(1 | g:h)", *(f"(0 + {c} | h)" for c in used)]))
    terms += [other] * bool(other)
    spread = draw(st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
    table["y"] = 3.0 * spread + spread * rng.normal(size=ROWS)
    unused, probed = draw(st.sampled_from([0, 0, 2])), draw(st.integers(0, 9)) == 0
    return Case(table, "y ~ " + " + ".join(terms), unused, probed, seed)


def with_unused_groups(data: MixedData, count: int) -> MixedData:
    terms = tuple(replace(term, num_groups=term.num_groups + count) for term in data.groups)
    return replace(data, mean=replace(data.mean, groups=terms))


def dense(data: MixedData, values: dict[str, np.ndarray], rounding: float, seed: int) -> float:
    """The exact density, with the columns moved by random roundings of that size."""
    rng = np.random.default_rng(seed)

    def moved(columns: Any) -> np.ndarray:
        columns = np.asarray(columns, np.float64)
        return exact(columns) * (1 + exact(rounding * rng.choice([-1.0, 1.0], columns.shape)))

    response = exact(data.response)
    mean, halves = exact(np.zeros(ROWS)), []
    if data.mean.names:
        prior: Any = data.priors["coefficients"]
        design = moved(data.mean.population)
        mean = design @ exact(prior.mean)
        halves.append(design * exact(np.sqrt(np.asarray(prior.variance))))
    for term in data.groups:
        root = np.diag(values[f"{term.name}_scale"])
        if term.correlated:
            root = root @ values[f"{term.name}_correlation"]
        by_row = moved(term.z) @ exact(root)
        spread = exact(np.eye(term.num_groups)[np.asarray(term.group)])
        halves.append((spread[:, :, None] * by_row[:, None, :]).reshape(ROWS, -1))
    noise = exact(np.broadcast_to(values["noise_scale"], ROWS))
    return exact_log_density(response, mean, noise, halves)


def latents(data: MixedData, seed: int) -> dict[str, np.ndarray]:
    """Noise as its prior has it; effects about theirs, or a thousandth to 1e6 times the noise."""
    rng = np.random.default_rng([seed, 1])
    law: Any = data.priors["noise_scale"]
    noise = float(law.scale) * 10.0 ** rng.uniform(-2, 0.5)
    found = {"noise_scale": np.asarray(noise)}
    for term in data.groups:
        size = np.sqrt(np.mean(np.square(np.asarray(term.z)), axis=0))
        prior: Any = data.priors[f"{term.name}_scale"]
        about = np.asarray(prior.scale) * 10.0 ** rng.uniform(-2, 0.5, len(size))
        share = 10.0 ** rng.uniform(-3, 6, len(size))
        of_noise = noise * share / np.where(size > 0, size, 1.0)
        found[f"{term.name}_scale"] = about if rng.random() < 0.5 else of_noise
        if term.correlated:
            rho = rng.uniform(-0.95, 0.95)
            found[f"{term.name}_correlation"] = np.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]])
    return found


def is_degenerate(columns: np.ndarray) -> bool:
    """Whether a column is a combination of others, up to some thousand roundings."""
    roundings = EPSILON * np.linalg.norm(columns, axis=0)
    centred = np.linalg.norm(columns - columns.mean(axis=0), axis=0)
    size = np.where(centred > 100 * roundings, centred, np.linalg.norm(columns, axis=0))
    for place in range(columns.shape[1]):
        others = np.delete(columns, place, axis=1)
        unit = np.linalg.norm(others, axis=0)
        basis, _ = np.linalg.qr(others / np.where(unit > 0, unit, 1.0))
        rest = columns[:, place]
        for _ in range(3):
            rest = rest - basis @ (basis.T @ rest)
        if np.linalg.norm(rest) <= 1e-4 * size[place] + 1e4 * roundings[place]:
            return True
    return False


def by_numpyro(model: MixedEffects, data: MixedData, values: dict[str, np.ndarray]) -> float:
    """Of the model as any NumPyro model, which is probed."""
    arrays = {name: jnp.asarray(value) for name, value in values.items()}
    marginal = marginalize(lambda rows: model(rows), model.effect_sites(data))
    _, trace = log_density(marginal, (data,), {}, arrays)
    (law,) = [site["fn"] for site in trace.values() if site.get("is_observed")]
    return float(law.log_prob(law.observed))


def by_host(
    model: MixedEffects, data: MixedData, values: dict[str, np.ndarray]
) -> tuple[float, Rounding]:
    """Of the model as our own, with next to nothing to compile, and what rounding leaves of it."""
    prepared = marginalize(model, model.effect_sites(data)).prepare(data)
    roots = {}
    if data.mean.names:
        prior: Any = data.priors["coefficients"]
        roots["coefficients"] = np.diag(np.sqrt(np.asarray(prior.variance)))
    for term in data.groups:
        root = np.diag(values[f"{term.name}_scale"])
        if term.correlated:
            root = root @ values[f"{term.name}_correlation"]
        roots[term.effects_site] = root
    trils = []
    for block, standard in zip(prepared.blocks, prepared.standards, strict=True):
        tril = block_diag(*(roots[layout.name] for layout in block.layouts))
        trils.append(tril if standard is None else np.asarray(standard.root(jnp.asarray(tril))))
    precision = 1.0 / float(values["noise_scale"]) ** 2
    assert prepared.statistics is not None
    host = HostEvidence(prepared.pattern, prepared.statistics)
    rounding = host.rounding(trils, precision)
    if has_host_form(prepared.pattern, prepared.statistics):
        return host.log_evidence(trils, precision), rounding
    found = jitted(prepared.pattern, prepared.statistics, trils, precision)
    return float(found), rounding


jitted = jax.jit(log_evidence)


def check(case: Case) -> None:
    model = MixedEffects(case.formula)
    with jax.enable_x64(True):
        try:
            (data,) = model.arguments(case.table)
        except ValueError as error:
            message, terms = str(error), case.formula.partition("(")[0].split()
            names = [n for n in (*case.table, "Intercept") if repr(n) in message]
            one = [np.ones(ROWS)] * ("1" in terms)
            used = [case.table[name] for name in ("x", "w") if name in terms]
            assert names, message
            assert is_degenerate(np.column_stack([*one, *used])), message
            return
        data = with_unused_groups(data, case.unused)
        values = latents(data, case.seed)
        got, rounding = by_host(model, data, values)
        if not rounding.is_small:
            assert max(rounding.sizes) > LEAST_LOSS
            with pytest.raises(MarginalizeError, match=r"effects of '\w+'.* noise scales"):
                by_numpyro(model, data, values)
            return
        got = by_numpyro(model, data, values) if case.probed else got
    wanted = dense(data, values, 0.0, 0)
    changes = [abs(dense(data, values, EPSILON, seed) - wanted) for seed in (1, 2)]
    tolerance = 1000 * max(changes) + 1e-9 * (ROWS + abs(wanted)) + 4 * rounding.error
    tolerance = min(tolerance, MOST_NATS + MOST_SHARE * (ROWS + abs(wanted)))
    assert abs(got - wanted) <= tolerance, (got, wanted, tolerance)


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=10, derandomize=True, **QUIET)
@given(cases())
def test_the_density_is_the_dense_one_or_a_column_is_named(case: Case) -> None:
    check(case)


@pytest.mark.calibration
@settings(max_examples=500, **QUIET)
@given(cases())
def test_five_hundred_designs(case: Case) -> None:
    check(case)
