"""NUTS for a factorization of MovieLens-100K, users integrated out, until its chains agree."""

import time
import warnings

import common
from marginal_mf import held_out, make_model

from probmf import diagnostics, sample_nuts

FACTORS = 5
SETTINGS = {"num_chains": 4, "num_warmup": 150, "num_samples": 600, "max_tree_depth": 8}
QUICK = SETTINGS | {"num_warmup": 10, "num_samples": 10}


def run(quick: bool) -> common.Report:
    train, test = common.movielens("100k", keep=["u_fold"]).split_on("u_fold", test=1)
    settings = QUICK if quick else SETTINGS
    begin = time.perf_counter()
    fit = sample_nuts(
        make_model(FACTORS), train, key=1, marginalize=("user_bias", "user_factors"), **settings
    )
    seconds = time.perf_counter() - begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = diagnostics.summary(fit)
    rows = [
        [row["name"], str(row["count"]), f"{row['ess_bulk']:.0f}", f"{row['ess_tail']:.0f}",
         f"{row['r_hat']:.3f}"]
        for row in summary.table
    ]  # fmt: skip
    found = held_out(fit, test)
    steps = float(fit.sampling.stats["n_steps"].mean())
    protocol = {
        "Data and model": "those of the comparison above, five factors",
        "Run": f"`sample_nuts(..., key=1, marginalize=('user_bias', 'user_factors'))` with "
        f"{settings}; {seconds:,.0f} s in all, {steps:.0f} steps a draw",
        "Table": "`diagnostics.summary(fit)`: the least effective sizes and the largest R-hat "
        "among so many quantities that the data identify",
        "Held-out": f"RMSE {found['rmse']:.4f}, coverage of 90 % intervals {found['coverage']:.3f}",
    }
    return common.Report(
        name="marginal_mf_long",
        title="A factorization by NUTS until its chains agree",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "What the data identify.", ["", "number", "ESS bulk", "ESS tail", "R-hat"], rows
            )
        ],
        figures={"seconds": seconds, "steps": steps, **found},
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
