"""Models of posteriordb through `marginalize` unchanged, weights and NUTS, against references."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import posterior_models as models
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

from probmf import sample_marginal
from probmf.inference.marginal import marginalize
from probmf.inference.marginal.injection import MarginalizeError

#: Without a site that can be integrated out.
PLAIN = {"gp_pois_regr-gp_regr": "Nothing can be integrated out"}


def draw(name: str, folder: Path, way: str) -> dict[str, np.ndarray]:
    """Draws of all sites by chain: integrated ones drawn back."""
    made = models.posterior(folder, name)
    marginal = marginalize(made.model)
    if way == "weights":
        tree = sample_marginal(marginal, made.data, key=1, num_samples=8000)
        return {site: value.to_numpy() for site, value in tree.posterior.data_vars.items()}
    target: Any = marginal
    if name in PLAIN:
        with pytest.raises(MarginalizeError, match=PLAIN[name]):
            marginal.prepare(**made.data)
        target = made.model
    mcmc = MCMC(
        NUTS(target, target_accept_prob=0.9), num_warmup=1000, num_samples=2500, num_chains=4,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(1), **made.data)
    rest = mcmc.get_samples(group_by_chain=True)
    found = {} if target is made.model else marginal.recover(2, rest, **made.data)
    return {site: np.asarray(value, np.float64) for site, value in {**rest, **found}.items()}


def errors(draws: np.ndarray, wanted: dict[str, float]) -> tuple[float, float]:
    """Differences of mean and standard deviation in Monte-Carlo errors of both."""
    mean, sd = draws.mean(), draws.std(ddof=1)
    own_mean = sd / np.sqrt(effective_sample_size(draws))
    square = np.square(draws - mean)
    own_sd = square.std() / np.sqrt(effective_sample_size(square)) / (2 * sd)
    return (
        float((mean - wanted["mean"]) / np.hypot(own_mean, wanted["mcse_mean"])),
        float((sd - wanted["sd"]) / np.hypot(own_sd, wanted["mcse_sd"])),
    )


@pytest.mark.calibration
@pytest.mark.parametrize(
    ("name", "way"),
    [
        (name, way) for name in models.REFERENCES for way in ("weights", "nuts")
        if way == "nuts" or name not in PLAIN
    ],
)  # fmt: skip
def test_means_and_deviations_are_those_of_the_reference(
    name: str, way: str, shared_data: Path
) -> None:
    if not (shared_data / "posteriordb").is_dir():
        pytest.skip("The models of posteriordb are not here: no ../shared/data/posteriordb.")
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        samples = models.numbers(draw(name, shared_data, way))
    wanted = models.reference(shared_data, name)
    assert set(wanted) <= set(samples)
    found = {one: errors(samples[one], row) for one, row in wanted.items()}
    worst = max(max(map(abs, pair)) for pair in found.values())
    assert worst < 4.0, {one: pair for one, pair in found.items() if max(map(abs, pair)) >= 4.0}


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("eight_schools-eight_schools_noncentered", {"theta", "mu"}),
        ("diamonds-diamonds", {"b"}),
        ("nes2000-nes", {"beta"}),
        ("radon_variable_intercept_slope", {"alpha", "beta", "mu_alpha", "mu_beta"}),
        ("seeds_stanified_model", {"b"}),
        ("GLMM_Poisson", {"e"}),
    ],
)
def test_what_is_integrated_out_is_found(name: str, inside: set[str], shared_data: Path) -> None:
    if not (shared_data / "posteriordb").is_dir():
        pytest.skip("The models of posteriordb are not here: no ../shared/data/posteriordb.")
    made = models.posterior(shared_data, name)
    report = marginalize(made.model).report(**made.data)
    assert {row["site"] for row in report if row["done"] != "sampled"} == inside
