"""NUTS for a factorization of MovieLens-100K, users integrated out, until its chains agree."""

import time
import warnings

import common
from marginal_mf import held_out, make_model

from probmf import diagnostics, sample_nuts

#: Draws of each chain, by the number of factors.
DRAWS = {5: 600, 10: 800}
SETTINGS = {"num_chains": 4, "num_warmup": 150, "max_tree_depth": 8}
QUICK = SETTINGS | {"num_warmup": 10}


def sample(factors: int, draws: int, settings: dict, splits: tuple) -> tuple[list[list[str]], dict]:
    """Rows of the table, and figures."""
    train, test = splits
    begin = time.perf_counter()
    fit = sample_nuts(
        make_model(factors), train, key=1, marginalize=("user_bias", "user_factors"),
        num_samples=draws, **settings,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = diagnostics.summary(fit)
    rows = [
        [str(factors), row["name"], str(row["count"]), f"{row['ess_bulk']:.0f}",
         f"{row['ess_tail']:.0f}", f"{row['r_hat']:.3f}"]
        for row in summary.table
    ]  # fmt: skip
    steps = float(fit.sampling.stats["n_steps"].mean())
    return rows, {"draws": draws, "seconds": seconds, "steps": steps, **held_out(fit, test)}


def run(quick: bool) -> common.Report:
    splits = common.movielens("100k", keep=["u_fold"]).split_on("u_fold", test=1)
    settings = QUICK if quick else SETTINGS
    rows, figures = [], {}
    for factors, draws in DRAWS.items():
        table, figures[str(factors)] = sample(factors, 10 if quick else draws, settings, splits)
        rows += table
    runs = [
        [factors, f"{found['draws']}", f"{found['seconds']:,.0f}", f"{found['steps']:.0f}",
         f"{found['rmse']:.4f}", f"{found['coverage']:.3f}"]
        for factors, found in figures.items()
    ]  # fmt: skip
    protocol = {
        "Data and model": "those of the comparison above",
        "Runs": "`sample_nuts(..., key=1, marginalize=('user_bias', 'user_factors'))` with "
        f"{settings}; seconds with everything, also warmup and compilation",
        "First table": "`diagnostics.summary(fit)`: the least effective sizes and the largest "
        "R-hat among so many quantities that the data identify",
        "Second table": "steps of a transition, held-out RMSE, coverage of 90 % intervals",
    }
    first = ["factors", "", "number", "ESS bulk", "ESS tail", "R-hat"]
    second = ["factors", "draws per chain", "seconds", "steps", "RMSE", "coverage"]
    return common.Report(
        name="marginal_mf_long",
        title="A factorization by NUTS until its chains agree",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Least effective sizes and largest R-hat of what the data identify.", first, rows
            ),
            common.Table(
                "The runs: steps a transition, held-out RMSE, share of the ratings in 90 % "
                "intervals.",
                second,
                runs,
            ),
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
