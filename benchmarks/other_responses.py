"""Mixed models of yes/no answers, counts, trials and levels: cold and again, beside plain NUTS."""

import common
import mixed_models as mixed

#: Draws asked for.
DRAWS = {
    "cbpp": 1000, "seeds": 1000, "lsat": 1000, "contraception": 1000, "verbagg": 1000,
    "grouseticks_counts": 1000, "election88": 1000, "counts": 400, "insteval_ordinal": 400,
}  # fmt: skip
#: Transitions of warm-up and of the sample of plain NUTS and of nutpie, where not 1,000.
TRANSITIONS = {"counts": 100, "insteval_ordinal": 300}
TITLES = {
    "grouseticks_counts": "grouseticks, an effect of each row",
    "counts": "100,000 Poisson rows, an effect of each",
    "insteval_ordinal": "InstEval, ordinal",
}


def compare(name: str, quick: bool) -> dict:
    ours = mixed.cold_run(name, 200 if quick else DRAWS[name])
    count = 200 if quick else TRANSITIONS.get(name, 1000)
    plain = mixed.plain_nuts(mixed.CASES[name], False, count, count)
    nutpie = mixed.plain_nutpie(mixed.CASES[name], count, count)
    return {"ours": ours, "plain": plain, "nutpie": nutpie}


def effective(ours: dict) -> float:
    return ours["info"].get("effective", ours["ess"][0])


def differences(ours: dict, plain: dict) -> str:
    """Largest difference of means in standard deviations, and smallest and largest ratio of sds."""
    pairs = [(ours["moments"][n], plain["moments"][n]) for n in ours["moments"]]
    means = max(abs(a[0] - b[0]) / b[1] for a, b in pairs)
    ratios = [a[1] / b[1] for a, b in pairs]
    return f"{means:.2f}; {min(ratios):.2f} to {max(ratios):.2f}"


def row(name: str, figure: dict) -> list[str]:
    ours, plain, nutpie = figure["ours"], figure["plain"], figure["nutpie"]
    k_hat = f"{ours['info']['k_hat']:.2f}" if "k_hat" in ours["info"] else "NUTS"
    cells = [
        TITLES.get(name, name), f"{ours['cold']:.1f}", f"{ours['second']:.1f}", k_hat,
        f"{effective(ours):.0f}", f"{effective(ours) / ours['cold']:,.1f}",
    ]  # fmt: skip
    by_us = effective(ours) / ours["cold"]
    for other in (plain, nutpie):
        rate = other["ess"] / other["whole_seconds"]
        cells += [f"{other['whole_seconds']:.1f}", f"{other['ess']:.0f}", f"{by_us / rate:.1f}x"]
    return [*cells, differences(ours, plain)]


def run(quick: bool, names: tuple[str, ...]) -> common.Report:
    if quick:
        names = names[:2]
    figures = {name: compare(name, quick) for name in names}
    protocol = {
        "Data": "of lme4, mlmRev, posteriordb and Elston et al. (2001); formulas in "
        "`benchmarks/mixed_models.py`; the package's default priors on both sides",
        "Ours": "`sample_marginal(model, data, key=0)` of 1,000 draws, 400 of the last two, in a "
        "fresh process, float64, all effects drawn. Cold: from the data frame, compilation "
        "included, imports not; again: other data of the same shapes, a tenth of whose responses "
        "changed places",
        "Effective": "of the importance weights where there is a k-hat; where NUTS sampled what "
        "quadrature leaves, smallest bulk ESS of coefficients, scales and correlations",
        "Plain": "NumPyro's NUTS on the non-centred model, one chain of 1,000 + 1,000 transitions, "
        "of InstEval 300 + 300, of the 100,000 rows 100 + 100; wall time with compilation; the "
        "ratio is of effective draws a second of the whole call",
        "nutpie": "on the same density, compiled by JAX, as many transitions",
        "Differences": "between our draws and those of plain NUTS: the largest of means, in "
        "standard deviations, and the ratios of standard deviations",
    }
    return common.Report(
        name="other_responses",
        title="Mixed models of other responses",
        protocol=protocol | common.environment(),
        tables=[
            common.Table(
                "Ours: seconds of a cold call and of a second one on other data, k-hat and "
                "effective draws. Then the same of non-centred NUTS and of nutpie, the ratios of "
                "effective draws a second, and how far NUTS's posterior is from ours.",
                [
                    *("data", "cold s", "again s", "k-hat", "effective", "ESS/s"),
                    *("NUTS cold s", "NUTS ESS", "ratio"),
                    *("nutpie cold s", "nutpie ESS", "ratio"),
                    "differences",
                ],
                [row(name, figure) for name, figure in figures.items()],
            )
        ],
        figures=figures,
        quick=quick,
    )


if __name__ == "__main__":
    common.main(run, tuple(DRAWS))
