"""One of several processes that fit together; a script that `test_processes.py` starts.

Arguments: address, number of processes, rank, folder. It writes what it finds into the folder as
JSON, and copies the checkpoint of an unfinished fit. Then it samples; the first waits after three
checkpoints until its standard input ends.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from probmf import (
    Gaussian,
    MatrixFactorization,
    Ratings,
    fit_als,
    processes,
    sample_gibbs,
    shards,
)
from probmf.results import RatingsFit
from probmf.run import driver
from probmf.run.checkpoint import Checkpoint

HALF = dist.HalfNormal(1.0)
POINT = MatrixFactorization(3, Gaussian(0.5))
DRAWN = MatrixFactorization(3, Gaussian(HALF), user_scale=HALF)
RUN: dict[str, Any] = {
    "num_warmup": 20,
    "num_samples": 40,
    "num_chains": 2,
    "key": 1,
    "float64": True,
}
#: Users, and items.
NUM = 60
#: Numbers of a sum over processes, 16 MiB in single precision.
SUMMED = 1 << 22
WRITE = Checkpoint.write


def ratings(seed: int = 0) -> Ratings:
    """Users and items of five ratings each, so that few programs are compiled."""
    user = np.repeat(np.arange(NUM), 5)
    item = (user + np.tile([0, 1, 4, 9, 16], NUM)) % NUM
    rating = np.random.default_rng(seed).normal(size=len(user))
    return Ratings.from_frame({"user": user, "item": item, "rating": rating})


def point(devices: int | None, folder: Path | None = None) -> RatingsFit:
    """Estimates."""
    return fit_als(
        POINT, ratings(), key=0, num_sweeps=5, tol=0.0, devices=devices, checkpoint=folder
    )


def values(fit: RatingsFit) -> dict[str, Any]:
    """Estimates by site, as values for JSON."""
    return {name: np.asarray(value).tolist() for name, value in fit.point().items()}


def draws(devices: int | None, folder: Path | None = None) -> dict[str, np.ndarray]:
    """Draws by site."""
    return dict(sample_gibbs(DRAWN, ratings(), checkpoint=folder, devices=devices, **RUN).samples)


def write_files(folder: Path) -> None:
    """Files of ratings: good ones, and others with an id missing in row 7."""
    own = ratings()
    table = {name: getattr(own, name).tolist() for name in ("user", "item", "rating")}
    for name in ("good", "bad"):
        table["user"][7] = None if name == "bad" else table["user"][7]
        pq.write_table(pa.table(table), folder / f"{name}.parquet", row_group_size=100)


def opened_files(folder: Path) -> str:
    """Sort the good files together; what the others lead to."""
    Ratings.open(folder / "good.parquet", shared=True)
    try:
        Ratings.open(folder / "bad.parquet", shared=True)
    except ValueError as error:
        return str(error)
    return ""


def scattered_sum() -> float:
    """The largest error of a sum of 16 MiB whose parts are left on the processes."""
    mesh, spec = Mesh(np.array(jax.devices()), ("row",)), PartitionSpec("row")

    def numbers(place: Any) -> Any:
        return jnp.sin(jnp.arange(SUMMED, dtype=jnp.float32) * (1.0 + place))

    parts = jax.make_array_from_callback(
        (mesh.size, SUMMED), NamedSharding(mesh, spec),
        lambda index: np.asarray(numbers(index[0].start or 0))[None],
    )  # fmt: skip
    total = jax.jit(
        jax.shard_map(
            lambda x: jax.lax.psum_scatter(x[0], "row", tiled=True), mesh=mesh, in_specs=spec,
            out_specs=spec,
        )
    )(parts)  # fmt: skip
    (own,) = total.addressable_shards
    wanted = np.asarray(sum(numbers(place) for place in range(mesh.size)))[own.index]
    return float(np.abs(np.asarray(own.data) - wanted).max())


def after_writes(count: int, act: Callable[[], Any]) -> None:
    """Act once after so many more checkpoints, of which every step now writes one."""
    write, written = WRITE, []

    def acting(self: Checkpoint, *arguments: Any) -> None:
        write(self, *arguments)
        written.append(1)
        if len(written) == count:
            act()

    Checkpoint.write = acting  # type: ignore[method-assign]
    driver.WRITE_EVERY = 0.0


def pause() -> None:
    """Wait for the end of standard input."""
    sys.stdout.write("paused\n")
    sys.stdout.flush()
    sys.stdin.read()


def main(address: str, count: int, rank: int, folder: Path) -> None:
    processes.join(address, count, rank)
    shards.CUT = 0
    found: dict[str, Any] = {"bad file": opened_files(folder)}
    try:
        fit_als(POINT, ratings(rank), key=0, devices=count)
    except processes.MismatchError as error:
        found["other data"] = str(error)
    if rank == 0:
        after_writes(3, lambda: shutil.copytree(folder / "als", folder / "unfinished"))
    fit = point(count, folder / "als")
    fit.save(folder / "saved", shared=True)
    found["point"] = values(fit)
    found["sums"] = [scattered_sum() for _ in range(3)]
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    after_writes(3, pause)
    draws(count, folder / "run")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Few draws, and say so.
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
