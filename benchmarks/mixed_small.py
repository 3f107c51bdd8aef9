"""Six small data sets of the marginalized-HMC paper: cold wall time, k-hat, and plain NUTS."""

import common
import mixed_models as mixed

#: Fresh processes for the cold time, of which the middle one counts.
REPEATS = 3
NAMES = ("dutch", "english", "mandarin", "pupil", "stroop", "grouseticks")
DRAWS = 1000


def compare(name: str, quick: bool) -> dict:
    draws = 300 if quick else 1000
    runs = [mixed.cold_run(name, 200 if quick else DRAWS) for _ in range(1 if quick else REPEATS)]
    ours = sorted(runs, key=lambda run: run["cold"])[len(runs) // 2]
    return {
        "ours": ours,
        "least": min(run["cold"] for run in runs),
        "plain": mixed.plain_nuts(mixed.CASES[name], False, draws, draws),
    }


def rate(figure: dict) -> tuple[float, float]:
    """Effective draws a second of a whole call, compilation included, ours and plain."""
    ours, plain = figure["ours"], figure["plain"]
    size = ours["info"].get("effective", ours["ess"][0])
    return size / ours["cold"], plain["ess"] / plain["whole_seconds"]


def run(quick: bool) -> common.Report:
    figures = {name: compare(name, quick) for name in (NAMES[:1] if quick else NAMES)}
    rows = []
    for name, figure in figures.items():
        ours, plain = figure["ours"], figure["plain"]
        info = ours["info"]
        by_us, by_nuts = rate(figure)
        k_hat = f"{info['k_hat']:.2f}" if "k_hat" in info else "-"
        rows.append(
            [
                name, ours["method"], f"{ours['cold']:.1f} ({figure['least']:.1f})",
                f"{ours['second']:.1f}", k_hat,
                f"{info.get('effective', ours['ess'][0]):.0f}",
                f"{info.get('num_densities', 0):,}" if "num_densities" in info else "-",
                f"{by_us:,.1f}",
                f"{plain['whole_seconds']:.1f}",
                f"{plain['ess']:.0f} ({plain['worst']})", f"{by_nuts:,.1f}",
                f"{by_us / by_nuts:.1f}x",
            ]
        )  # fmt: skip
    protocol = {
        "Data and priors": "those of Lai, Domke and Sheldon (2024), written as formulas in "
        "`benchmarks/mixed_models.py`; grouseticks with the package's default prior for its "
        "coefficients",
        "Ours": f"`sample_marginal(model, data, key=0, num_samples={DRAWS})` in a fresh process, "
        "float64. Cold: from the data frame to the draws of all effects, compilation included, "
        "imports not, the median of three processes and the least; second: the same again with "
        "another key",
        "Plain": "NumPyro's NUTS on the non-centred joint model, one chain, float64, 1,000 warm-up "
        "transitions and 1,000 draws; wall time with compilation. Warm-up and draws are two calls, "
        "each of which NumPyro compiles",
        "ESS": "ours: effective number of draws of the importance weights (bulk ESS where NUTS "
        "took over); plain: smallest bulk ESS of the global parameters; both a second of the whole "
        "first call",
    }
    return common.Report(
        name="mixed_small",
        title="Small mixed models",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Ours: seconds of a cold call and of a second one, k-hat and effective draws, "
                "densities evaluated. Then the same of non-centred NUTS, and the ratio of "
                "effective draws a second of the cold call.",
                [
                    "data",
                    "method",
                    "cold s (least)",
                    "second s",
                    "k-hat",
                    "effective",
                    "densities",
                    "ESS/s",
                    "NUTS cold s",
                    "NUTS ESS (worst)",
                    "NUTS ESS/s",
                    "ratio of ESS/s",
                ],
                rows,
            )
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run)
