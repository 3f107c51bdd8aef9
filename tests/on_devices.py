"""Rows and fits on several devices, as JSON; a script for a process with eight pretended devices.

Argument: questions as JSON, each with numbers of devices: "rows" for single half-sweeps and what
they hold and move, "held" for what they hold alone, "chains", "fits", "others", "lists",
"integrated" or "sampled".
"""

import json
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.sharding import Mesh

from probmf import (
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    MixedEffects,
    Ratings,
    fit_als,
    fit_map,
    fit_variational,
    sample_gibbs,
    sample_nuts,
)
from probmf.backend import use_backend
from probmf.inference.marginal_rows import RowsMarginal, Stretched
from probmf.inference.nuts import transitions
from probmf.inference.point import full_batch, minibatch
from probmf.inference.target import Target
from probmf.results import RatingsFit, Sampling, ranking
from probmf.rows import sweep
from probmf.rows.placement import LineDevices, RowShards, chain_meshes, row_mesh, solve_shards
from probmf.rows.store import OTHER, SIDES, RowStore, Side
from probmf.rows.sweep import _solve_bucket, half_sweep, lay_out
from probmf.rows.values import Prior, Rows, RowValues

FACTORS = 3
SIZE: dict[Side, int] = {"user": 64, "item": 48}
BYTES = {"f32": 4, "f64": 8}


def data() -> dict[Side | str, np.ndarray]:
    """Users of up to eight ratings, items of up to eight and a few of more: three buckets."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(SIZE["user"]), rng.integers(4, 9, SIZE["user"]))
    item = np.concatenate(
        [[code % 4, *4 + rng.permutation(SIZE["item"] - 4)[: count - 1]]
         for code, count in enumerate(np.bincount(user))]
    )  # fmt: skip
    return {"user": user, "item": item, "rating": rng.normal(size=len(user))}


def fits(devices: int | None) -> dict[str, Any]:
    """Estimates of least squares with weak zeros, and draws of two chains."""
    ratings = Ratings.from_frame(data(), **{f"{side}s": [*range(n)] for side, n in SIZE.items()})
    half = dist.HalfNormal(1.0)
    weak = MatrixFactorization(FACTORS, Gaussian(0.5), unobserved_weight=0.01)
    drawn = MatrixFactorization(FACTORS, Gaussian(half), user_scale=half)
    point = fit_als(weak, ratings, key=0, num_sweeps=4, devices=devices)
    draws = sample_gibbs(
        drawn, ratings, key=0, num_warmup=2, num_samples=3, num_chains=2, devices=devices
    )
    assert point.history is not None
    found = {name: point.point()[name] for name in ("user_factors", "item_bias")}
    found |= {f"draws of {name}": draws.samples[name] for name in ("item_factors", "noise_scale")}
    found["objective"] = point.history.objective
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def chains(devices: int | None) -> dict[str, Any]:
    """Draws of three chains of NUTS, and how many devices hold the data meanwhile."""
    table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
    places: set[Any] = set()
    kept = transitions._Transitions.step

    def step(self: Any, *given: Any) -> Any:
        found = kept(self, *given)
        places.update(leaf.device for leaf in jax.tree.leaves(found[0]))
        return found

    transitions._Transitions.step = step  # type: ignore[method-assign]
    fit = sample_nuts(
        MixedEffects("y ~ 1 + (1 | g)"), table, key=0, num_warmup=20, num_samples=20, num_chains=3,
        devices=devices, progress=False,
    )  # fmt: skip
    transitions._Transitions.step = kept  # type: ignore[method-assign]
    return {"draws": fit.samples["g_effects"].tolist(), "places": len(places)}


def laid_out(devices: int | None) -> Any:
    """The ratings for half-sweeps: dealt out to so many devices, or for one that isn't named."""
    table = data()
    store = RowStore.of(
        table["user"], table["item"], table["rating"], num_users=SIZE["user"],
        num_items=SIZE["item"],
    )  # fmt: skip
    mesh = None if devices is None else row_mesh(devices)
    return lay_out(store, Gaussian(), "cg", num_columns=FACTORS, num_tables=1, mesh=mesh)


def rows(devices: int | None) -> dict[str, Any]:
    """New rows and sums of half-sweeps; of shards also bytes, ratings, lines and collectives."""
    rng = np.random.default_rng(1)
    present: Rows = {
        side: RowValues(jnp.asarray(rng.normal(size=n)), jnp.asarray(rng.normal(size=(n, FACTORS))))
        for side, n in SIZE.items()
    }
    layout, found = laid_out(devices), {}
    for side in SIDES:
        prior = Prior(
            jnp.asarray(0.3), {"noise_scale": jnp.asarray(0.5)},
            jnp.asarray(rng.uniform(1, 2, (SIZE[side], 1 + FACTORS))), jnp.ones(1 + FACTORS),
            None, None,
        )  # fmt: skip
        for method, key in (("cg", None), ("cholesky", jax.random.key(2))):
            with ThreadPoolExecutor(layout.workers) as pool:
                new, sums = half_sweep(
                    layout, side, present, prior, likelihood=Gaussian(), method=method,
                    cg_steps=3, pool=pool, key=key,
                )  # fmt: skip
            found[f"{side} {method}"] = np.asarray(new[side].at(slice(None))).tolist()
            found[f"{side} {method} sums"] = [float(jnp.sum(x)) for x in sums]
        if isinstance(layout, RowShards):
            given = {"own": present[side], "other": present[OTHER[side]], "prior": prior}
            found[f"{side} gathered"] = gathered(layout, side, given | {"key": None})
    return found | holdings(layout)


def holdings(shards: Any) -> dict[str, Any]:
    """Of each device: bytes of its ratings, their number, and lines for rows of each side."""
    if not isinstance(shards, RowShards):
        return {}
    buckets = [bucket for side in SIDES for bucket in shards.sides[side].buckets]
    count = shards.mesh.size
    lengths = [np.asarray(bucket.length).reshape(count, -1).sum(axis=1) for bucket in buckets]
    return {
        "bytes": [
            sum(x.addressable_shards[one].data.nbytes for x in jax.tree.leaves(buckets))
            for one in range(count)
        ],
        "ratings": np.sum(lengths, axis=0).tolist(),
        "lines": {
            side: sum(bucket.row[0].size for bucket in shards.sides[side].buckets) for side in SIDES
        },
    }


def gathered(shards: RowShards, side: Side, given: dict[str, Any]) -> int:
    """Bytes that come out of the collectives of a compiled half-sweep."""
    lowered = solve_shards.lower(
        _solve_bucket, shards.mesh, shards.sides[side].buckets, shards.sides[side].source, given,
        likelihood=Gaussian(), method="cg", cg_steps=3,
    )  # fmt: skip
    return moved(lowered.compile().as_text())


def moved(text: str) -> int:
    """Bytes that come out of the collectives of a compiled program."""
    total = 0
    collectives = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    for shapes in re.findall(rf"= (.+?) (?:{collectives})(?:-start)?\(", text):
        for dtype, shape in re.findall(r"(f32|f64)\[([\d,]*)\]", shapes):
            total += BYTES[dtype] * int(np.prod([int(n) for n in shape.split(",") if n]))
    return total


def others(devices: int | None) -> dict[str, Any]:
    """Estimates of the other methods: gradients of all ratings, batches, and approximations."""
    table = data()
    ratings = Ratings.from_frame(table, **{f"{side}s": [*range(n)] for side, n in SIZE.items()})
    events = Ratings.from_frame(
        table | {"rating": 1.0 * (table["rating"] > 0)},
        **{f"{side}s": [*range(n)] for side, n in SIZE.items()},
    )
    calls: list[str] = []

    def noted(module: Any, name: str) -> None:
        kept = getattr(module, name)
        setattr(module, name, lambda *given: calls.append(name) or kept(*given))

    for module in (sweep, full_batch):
        noted(module, "deal_rows")
    noted(minibatch, "share_slots")
    weak = MatrixFactorization(FACTORS, Gaussian(0.5), unobserved_weight=0.01)
    learned = MatrixFactorization(
        FACTORS, Gaussian(dist.HalfNormal(1.0)), user_scale=dist.HalfNormal(1.0)
    )
    yes = MatrixFactorization(FACTORS, Bernoulli())
    fits = {
        "all ratings": fit_map(weak, ratings, key=0, num_epochs=4, devices=devices),
        "batches": fit_map(yes, events, key=0, num_epochs=2, batch_size=100, devices=devices),
        "all rows": fit_map(
            yes, events, key=0, num_epochs=2, batch_size=100, optimizer="adam", learning_rate=0.1,
            num_restarts=2,
            devices=devices,
        ),
        "warp": fit_map(
            MatrixFactorization(FACTORS, Bernoulli(), user_bias=False, intercept=None), events,
            key=0, num_epochs=2, batch_size=64, objective="warp", devices=devices,
        ),
        "diagonal": fit_variational(yes, events, key=0, num_sweeps=3, devices=devices),
        "block": fit_variational(
            learned, ratings, key=0, num_sweeps=3, covariance="block", devices=devices
        ),
    }  # fmt: skip
    found: dict[str, Any] = {"calls": sorted(set(calls)), "dealt": calls.count("deal_rows")}
    for name, fit in fits.items():
        assert fit.history is not None
        found[f"{name}, objective"] = np.asarray(fit.history.objective).tolist()
        found[name] = np.asarray(fit.samples["item_factors"]).tolist()
    return found


def integrated(devices: int | None) -> dict[str, Any]:
    """The density without the rows of a side, its gradient, draws of the rows, and collectives."""
    half, rng = dist.HalfNormal(1.0), np.random.default_rng(3)
    meshes = [] if devices is None else chain_meshes(row_mesh(devices))
    ratings = Ratings.from_frame(
        data() | {"weight": rng.uniform(0.5, 2.0, len(data()["user"]))}, weight="weight",
        **{f"{side}s": [*range(n + 2)] for side, n in SIZE.items()},
    )  # fmt: skip
    found: dict[str, Any] = {}
    for side, scale in (("user", half), ("item", dist.HalfNormal(np.ones(SIZE["item"] + 2)))):
        scales = {f"{side}_scale": scale, f"{side}_bias_scale": half}
        model = MatrixFactorization(FACTORS, Gaussian(half), **scales)
        sites = (f"{side}_bias", f"{side}_factors")
        target = Target.build(model, ratings, sites, *meshes).model
        assert isinstance(target, RowsMarginal)
        potential = Stretched(target)
        vector = jnp.asarray(rng.normal(size=potential.num_dims))
        program = potential._value_and_grad.lower(potential, vector).compile()
        value, gradient = program(potential, vector)
        found[f"{side}, value"], found[f"{side}, gradient"] = float(value), gradient.tolist()
        if meshes:
            found[f"{side}, summed"] = moved(program.as_text())
        samples = jax.tree.map(lambda x: np.asarray(x)[None], potential.constrain_all(vector[None]))
        drawn = target.recover(jax.random.key(1), samples)
        found |= {f"{side}, {site}": drawn[site].tolist() for site in sites}
    return found


def sampled(devices: int | None) -> dict[str, Any]:
    """Draws of three chains whose users are integrated out, on two meshes where there are any."""
    half, mesh = dist.HalfNormal(1.0), None
    ratings = Ratings.from_frame(data(), **{f"{side}s": [*range(n)] for side, n in SIZE.items()})
    if devices is not None:
        mesh = Mesh(np.array(jax.devices()[:devices]).reshape(-1, 2), ("row", "chain"))
    fit = sample_nuts(
        MatrixFactorization(1, Gaussian(half), user_scale=half), ratings, key=0, num_warmup=3,
        num_samples=3, num_chains=3, marginalize=("user_bias", "user_factors"), max_tree_depth=3,
        devices=mesh, progress=False,
    )  # fmt: skip
    return {name: np.asarray(x).tolist() for name, x in fit.samples.items()}


def lists(devices: int | None) -> dict[str, Any]:
    """Recommendations to everybody and to a stranger, and how many devices ranked them."""
    places: list[int] = []
    kept = LineDevices.map

    def noted(self: LineDevices, *given: Any, **static: Any) -> Any:
        places.append(self.replicate(jnp.zeros(())).sharding.num_devices)
        return kept(self, *given, **static)

    LineDevices.map = noted  # type: ignore[method-assign]
    # Eight users at a time on each device.
    ranking.BLOCK_SCORES = 8 * 64
    table, rng = data(), np.random.default_rng(2)
    events = Ratings.from_frame(
        table | {"rating": 1.0 * (table["rating"] > 0)},
        **{f"{side}s": [*range(n + 2)] for side, n in SIZE.items()},
    )
    model = MatrixFactorization(FACTORS, Bernoulli())
    shapes = {"intercept": ()} | model.site_shapes(events.num_users, events.num_items)
    draws = {name: rng.normal(0.0, 0.5, (1, 4, *shape)) for name, shape in shapes.items()}
    point = RatingsFit.from_point(model, events, {name: x[0, 0] for name, x in draws.items()},
                                  method="test")  # fmt: skip
    asked = np.append(events.users.ids, 999)
    found: dict[str, Any] = {}
    for name, fit, options in (
        ("mean", point, {}),
        ("upper", point, {"rank_by": "upper"}),
        ("thompson", point, {"rank_by": "thompson", "key": 0}),
        ("draws", RatingsFit(model, events, draws, "test", sampling=Sampling({}, 1, 0.1)), {}),
    ):
        best = fit.recommend(asked, 5, devices=devices, **options)
        found[name] = {"code": best.code.tolist(), "score": best.score.tolist()}
    LineDevices.map = kept  # type: ignore[method-assign]
    return found | {"places": sorted({*places}), "calls": len(places)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Three draws are few, and say so.
    jax.config.update("jax_enable_x64", True)
    questions = {
        "rows": rows,
        "held": lambda devices: holdings(laid_out(devices)),
        "chains": chains,
        "fits": fits,
        "others": others,
        "lists": lists,
        "integrated": integrated,
        "sampled": sampled,
    }
    with use_backend("xla"):
        answers = {
            what: {str(count): questions[what](count) for count in (None, *counts)}
            for what, counts in json.loads(sys.argv[1]).items()
        }
    sys.stdout.write(json.dumps(answers))
