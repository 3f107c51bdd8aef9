"""A walk through probmf as it is installed, by `make package`: with what it needs and no more.

Every module is imported, and what leans on another package is called once.
"""

import importlib
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import probmf


def import_all() -> int:
    """Import every module; their number."""
    modules = list(pkgutil.walk_packages(probmf.__path__, "probmf."))
    for module in modules:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return len(modules)


def use(folder: Path) -> None:
    """Fit, judge, draw, report, save and load."""
    import arviz_stats
    import numpyro.distributions as dist

    from probmf import datasets, diagnostics, plots
    from probmf.report import write_report

    ratings = datasets.simulate_ratings(
        key=0, num_users=30, num_items=20, num_ratings=300, num_factors=1
    ).ratings
    model = probmf.MatrixFactorization(1, probmf.Gaussian(dist.HalfNormal(1.0)))
    fit = probmf.sample_gibbs(model, ratings, key=0, num_warmup=20, num_samples=40)
    fit.recommend(k=3).to_pandas()
    diagnostics.summary(fit)
    arviz_stats.loo(fit.to_arviz(log_likelihood=True))
    plots.calibration(fit, ratings).savefig(folder / "calibration.png")
    write_report(fit, folder / "fit.html", test=ratings)
    fit.save(folder / "fit")
    assert len(probmf.load(folder / "fit").data) == 300
    table = {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 3.5], "g": ["a", "b", "a", "b", "c", "c"]}
    probmf.fit_marginal(probmf.MixedEffects("y ~ 1 + (1 | g)"), table).summary()
    script = Path(sys.executable).with_name("probmf")
    told = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == f"probmf {probmf.__version__}"


def main() -> None:
    """Walk, away from the sources."""
    place = Path(probmf.__file__).parent
    assert place.is_relative_to(sys.prefix), f"{place} is not what was installed"
    count = import_all()
    with tempfile.TemporaryDirectory() as folder:
        use(Path(folder))
    sys.stdout.write(f"probmf {probmf.__version__}: {count} modules imported, all calls worked\n")


if __name__ == "__main__":
    main()
