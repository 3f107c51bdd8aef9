"""Models of posteriordb: effective draws a second of `marginalize` and of plain NUTS."""

import json
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import mixed_models
import numpy as np
from jax import lax
from numpyro import handlers
from numpyro.infer import NUTS
from numpyro.infer.reparam import LocScaleReparam

from probmf import marginalize, sample_marginal
from probmf.inference.final_warning import FallbackWarning
from probmf.inference.marginal.injection import MarginalizeError

sys.path.insert(0, str(common.ROOT / "tests"))
import posterior_models

#: Transitions of warm-up and of the sample, of one chain.
DRAWS = 1000
NAMES = (*posterior_models.OTHERS, *posterior_models.REFERENCES)
WAYS = ("weighted", "marginal", "centred", "non-centred", "nutpie")
#: Those that integrate effects out.
OURS = WAYS[:2]
#: Seconds that one way may take.
LIMIT = 300


def sample(name: str, way: str, draws: int) -> dict[str, Any]:
    """Draws of all parameters and effects by one way: seconds, and the worst effective number."""
    made = posterior_models.posterior(common.DATA, name)
    model, marginal = made.model, marginalize(made.model)
    effects = next((o for n, o in posterior_models.EFFECTS.items() if name.startswith(n)), ())
    inside: list[str] = []
    begin = time.perf_counter()
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        if way in OURS:
            try:
                report = marginal.report(**made.data)
            except MarginalizeError:
                report = ()
            inside = [
                f"{row['site']}{' (quadrature)' * ('quadrature' in row['done'])}"
                for row in report
                if row["done"] != "sampled"
            ]
            model = marginal if inside else model
        if way == "weighted" and inside:
            return weighted(marginal, made.data, draws, inside)
        if way in {"non-centred", "nutpie"}:
            model = handlers.reparam(model, {site: LocScaleReparam(0) for site in effects})
        if way == "nutpie":
            samples, told, seconds = mixed_models.run_nutpie(model, made.data, draws, draws)
        else:
            samples, told, seconds = run_nuts(model, made.data, draws)
        if inside:
            recover = partial(marginal.recover, 1, samples, **made.data)
            samples |= jax.block_until_ready(recover())
        whole = time.perf_counter() - begin
        if inside:
            again = time.perf_counter()
            jax.block_until_ready(recover())
            seconds += time.perf_counter() - again
        samples = {site: np.asarray(own) for site, own in samples.items()}
    names = [site for site in samples if not site.endswith("_decentered")]
    size, worst = mixed_models.smallest(mixed_models.effective_sizes(samples, names))
    return {
        "inside": inside, "whole": whole, "seconds": seconds, "ess": size, "worst": worst, **told
    }  # fmt: skip


def weighted(marginal: Any, data: dict[str, Any], draws: int, inside: list[str]) -> dict[str, Any]:
    """`sample_marginal`: all of a first call, and a second, of the same data and another key."""
    seconds = []
    for key in range(2):
        begin = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tree = sample_marginal(marginal, data, key=key, num_samples=draws, progress=False)
        seconds.append(time.perf_counter() - begin)
    samples = {site: own.to_numpy() for site, own in tree.posterior.data_vars.items()}
    size, worst = mixed_models.smallest(mixed_models.effective_sizes(samples, list(samples)))
    fell_back = any(issubclass(one.category, FallbackWarning) for one in caught)
    return {
        "inside": inside, "whole": seconds[0], "seconds": seconds[1], "ess": size, "worst": worst,
        "k_hat": tree.attrs.get("k_hat"), "divergences": 0, "fell_back": fell_back,
    }  # fmt: skip


def run_nuts(model: Any, data: dict[str, Any], draws: int) -> tuple[dict[str, Any], dict, float]:
    """One chain of NumPyro's NUTS: draws, what it tells, and seconds of the compiled program."""
    kernel = NUTS(model)
    state = kernel.init(jax.random.PRNGKey(0), draws, None, (), data)

    def step(state: Any, _: None) -> tuple[Any, tuple]:
        state = kernel.sample(state, (), data)
        return state, (state.z, state.num_steps, state.diverging)

    def both(state: Any) -> tuple:
        state, _ = lax.scan(lambda state, _: (step(state, None)[0], None), state, length=draws)
        return lax.scan(step, state, length=draws)[1]

    program = jax.jit(both).lower(state).compile()
    begin = time.perf_counter()
    places, steps, diverging = jax.block_until_ready(program(state))
    seconds = time.perf_counter() - begin
    found = jax.lax.map(kernel.postprocess_fn((), data), places)
    told = {"steps": float(jnp.mean(steps)), "divergences": int(jnp.sum(diverging))}
    return {site: own[None] for site, own in found.items()}, told, seconds


def in_process(name: str, way: str, draws: int) -> dict[str, Any] | None:
    """The same in a fresh process; None if it takes too long."""
    words = [str(Path(__file__).resolve()), "--one", name, way, str(draws)]
    try:
        done = subprocess.run(
            [sys.executable, *words], check=True, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def rates(found: dict[str, Any]) -> tuple[float, float]:
    """Effective draws a second, with compilation and without."""
    return found["ess"] / found["whole"], found["ess"] / found["seconds"]


def row(name: str, figures: dict[str, dict[str, Any] | None]) -> list[str]:
    """A row of the table."""
    ours = figures["weighted"]
    inside = f"over {LIMIT} s" if ours is None else ", ".join(ours["inside"]) or "nothing"
    cells = [name, inside]
    for way in WAYS:
        found = figures.get(way)
        if way not in figures:
            cells.append("as centred")
        elif found is None:
            cells.append(f"over {LIMIT} s")
        else:
            cold, warm = rates(found)
            bad = f", {found['divergences']} divergent" * (found["divergences"] > 0)
            bad += ", NUTS" * found.get("fell_back", False)
            cells.append(f"{cold:,.1f} / {warm:,.0f}{bad}")
    others = [rates(own) for way, own in figures.items() if way not in OURS and own is not None]
    if ours is None or not others:
        return [*cells, "-", "-"]
    mine, centred = rates(ours), figures["centred"]
    plain = rates(centred) if centred is not None else None
    return [
        *cells,
        " / ".join("-" if plain is None else f"{mine[k] / plain[k]:.1f}" for k in (0, 1)),
        " / ".join(f"{mine[k] / max(own[k] for own in others):.1f}" for k in (0, 1)),
    ]


def run(quick: bool, names: tuple[str, ...]) -> common.Report:
    draws, rows, all_figures = 200 if quick else DRAWS, [], {}
    for name in names:
        known = any(name.startswith(own) for own in posterior_models.EFFECTS)
        ways = [way for way in WAYS if known or way != "non-centred"]
        figures = {way: in_process(name, way, draws) for way in ways}
        all_figures[name] = figures
        rows.append(row(name, figures))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    protocol = {
        "Models": "`tests/posterior_models.py`, plain NumPyro models that know nothing of probmf",
        "Ways": "NumPyro's NUTS in float64 with its default settings, one chain, each in a fresh "
        f"process: {draws:,} transitions of warm-up and {draws:,} draws. Marginal: "
        "`marginalize(model)`, and `recover` for the effects; where nothing can be integrated out "
        "the model as it is. Non-centred: `LocScaleReparam(0)` of the effects. Weighted: "
        f"`sample_marginal(marginalize(model), data)`, {draws:,} draws",
        "Figures": "smallest bulk ESS of all parameters and effects, by the wall seconds from the "
        "model to all draws, tracing, compiling and the search for what can be integrated out "
        "among them / by those of the compiled programs, of the chain and of the draws of effects; "
        "of the weighted draws by those of a second call",
    }
    return common.Report(
        name="posteriordb", title="Models of posteriordb",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Effective draws a second of the worst parameter, with compilation / without.",
                ["posterior", "integrated out", *WAYS, "weighted by centred", "by the best other"],
                rows,
            )
        ],
        figures=all_figures, quick=quick,
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(sample(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        common.main(run, NAMES)
