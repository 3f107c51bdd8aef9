"""The other side of a comparison: runs in the peers' environment and imports nothing of ours.

Reads one JSON request per line from stdin and answers each with one JSON line on stdout. Arrays
travel as .npz files. Seconds are measured here, around the peer's own code only.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback

import numpy as np
from scipy.sparse import csr_matrix


class LensKit:
    """LensKit's explicit ALS: biases by damped means first, then factors of what is left."""

    def start(self, train, factors, regularization, damping, seed):
        """Biases and starting values."""
        import pandas as pd
        from lenskit.als import BiasedMFScorer
        from lenskit.data import from_interactions_df
        from lenskit.training import TrainingOptions

        arrays = np.load(train)
        frame = pd.DataFrame(
            {"user_id": arrays["user"], "item_id": arrays["item"], "rating": arrays["rating"]}
        )
        data = from_interactions_df(frame)
        self.scorer = BiasedMFScorer(
            embedding_size=factors, regularization=regularization, damping=damping
        )
        begin = time.perf_counter()
        self.trainer = self.scorer.create_trainer(data, TrainingOptions(rng=seed))
        return {"seconds": time.perf_counter() - begin}

    def sweeps(self, number, test=None):
        """Epochs, each timed; the error after each, if there are test ratings."""
        seconds, errors = [], []
        for _ in range(number):
            begin = time.perf_counter()
            self.trainer.train_epoch()
            seconds.append(time.perf_counter() - begin)
            if test is not None:
                errors.append(self._rmse(np.load(test)))
        return {"seconds": seconds, "rmse": errors}

    def _rmse(self, test):
        scorer, bias = self.scorer, self.scorer.bias
        user = scorer.users.numbers(test["user"], missing="negative")
        item = scorer.items.numbers(test["item"], missing="negative")
        score = np.einsum(
            "nk,nk->n", scorer.user_embeddings[user], scorer.item_embeddings[item], dtype=np.float64
        )
        score = np.where((user >= 0) & (item >= 0), score, 0.0)
        score += bias.global_bias + np.where(user >= 0, bias.user_biases[user], 0.0)
        score += np.where(item >= 0, bias.item_biases[item], 0.0)
        return float(np.sqrt(np.mean((test["rating"] - score) ** 2)))


class Implicit:
    """implicit's ALS for implicit feedback, three conjugate-gradient steps a row, and its BPR."""

    def start(self, train, factors, regularization, alpha, seed):
        """A new model of the events."""
        from implicit.als import AlternatingLeastSquares

        self.matrix = _csr(np.load(train))
        self.model = AlternatingLeastSquares(
            factors=factors, regularization=regularization, alpha=alpha, use_cg=True,
            use_gpu=False, iterations=1, num_threads=len(os.sched_getaffinity(0)),
            random_state=seed,
        )  # fmt: skip
        return {}

    def sweeps(self, number):
        """Iterations from where the model stands, each timed."""
        seconds = []
        self.model.iterations = number
        # The callback's time is that of the two solves, without fit's transposition.
        self.model.fit(
            self.matrix, show_progress=False, callback=lambda _, took, __: seconds.append(took)
        )
        return {"seconds": seconds}

    def bpr(self, train, factors, learning_rate, regularization, iterations, seed, k):
        """A fit of its BPR, timed, and the k best items of every user."""
        from implicit.bpr import BayesianPersonalizedRanking

        matrix = _csr(np.load(train))
        model = BayesianPersonalizedRanking(
            factors=factors, learning_rate=learning_rate, regularization=regularization,
            iterations=iterations, use_gpu=False, num_threads=len(os.sched_getaffinity(0)),
            random_state=seed,
        )  # fmt: skip
        begin = time.perf_counter()
        model.fit(matrix, show_progress=False)
        seconds = time.perf_counter() - begin
        ranked, _ = model.recommend(np.arange(matrix.shape[0]), matrix, N=k)
        return {"seconds": [seconds], "ranked": ranked.tolist()}

    def recommend(self, k):
        """The k best items of every user, what the user has left out."""
        users = np.arange(self.matrix.shape[0])
        begin = time.perf_counter()
        self.model.recommend(users, self.matrix, N=k)
        return {"seconds": [time.perf_counter() - begin]}

    def factors(self, out):
        """Store the factors."""
        np.savez(out, user=self.model.user_factors, item=self.model.item_factors)
        return {}

    def fold_in(self, known, k, out):
        """The k best items of users it was not fitted to, from what is known of them."""
        matrix = _csr(np.load(known))
        users = np.arange(matrix.shape[0])
        ranked, _ = self.model.recommend(users, matrix, N=k, recalculate_user=True)
        np.save(out, ranked)
        return {}


class Nutpie:
    """PyMC's model of the lecture ratings, sampled by nutpie (compiled with numba)."""

    def start(self, data):
        """Build and compile the centred model."""
        import nutpie
        import pymc as pm

        arrays = np.load(data)
        begin = time.perf_counter()
        with pm.Model() as model:
            noise = pm.HalfNormal("noise_scale", 1.0)
            score = pm.Normal("intercept", 0.0, 5.0)
            score = score + pm.Normal("service", 0.0, 1.0) * arrays["service"]
            for name in ("s", "d", "dept"):
                scale = pm.HalfNormal(f"{name}_scale", 1.0)
                effect = pm.Normal(name, 0.0, scale, shape=int(arrays[name].max()) + 1)
                score = score + effect[arrays[name]]
            pm.Normal("y", score, noise, observed=arrays["y"])
        self.compiled = nutpie.compile_pymc_model(model)
        return {"seconds": time.perf_counter() - begin}

    def sample(self, warmup, draws, chains):
        """Draws of the global parameters, (chain, draw)."""
        import nutpie

        begin = time.perf_counter()
        trace = nutpie.sample(
            self.compiled, draws=draws, tune=warmup, chains=chains, cores=chains, seed=0,
            progress_bar=False,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        names = ("s_scale", "d_scale", "dept_scale", "noise_scale", "intercept", "service")
        samples = {name: np.asarray(trace.posterior[name]).tolist() for name in names}
        return {"seconds": [seconds], "samples": samples}


class Smurff:
    """smurff's BPMF: Normal-Wishart priors on both sides, ratings less their mean."""

    def start(self, train, test, factors, precision, burnin, samples, seed):
        """A new session."""
        import smurff
        from scipy.sparse import coo_matrix

        known, held_out = np.load(train), np.load(test)
        mean = known["rating"].mean()
        tables = [
            coo_matrix(
                (arrays["rating"] - mean, (arrays["user"], arrays["item"])),
                shape=tuple(int(size) for size in known["shape"]),
            )
            for arrays in (known, held_out)
        ]
        self.session = smurff.TrainSession(
            priors=["normal", "normal"], num_latent=factors, burnin=burnin, nsamples=samples,
            num_threads=len(os.sched_getaffinity(0)), seed=seed, verbose=0,
        )  # fmt: skip
        self.session.addTrainAndTest(*tables, smurff.FixedNoise(precision))
        self.session.init()
        return {}

    def sweeps(self, number):
        """Sweeps with the predictions of the test pairs, each timed; the error of the averages."""
        seconds = []
        for _ in range(number):
            begin = time.perf_counter()
            if not self.session.step():
                break
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds, "rmse": float(self.session.getRmseAvg())}


class MyFM:
    """myFM's Gibbs sampler on the indicators of user and item."""

    def start(self, train, test, factors, seed):
        """Keep the data."""
        self.tables, self.factors, self.seed = (np.load(train), np.load(test)), factors, seed
        return {}

    def sweeps(self, number):
        """A run of so many sweeps, each timed; no predictions."""
        import myfm

        train = self.tables[0]
        users, items = (int(size) for size in train["shape"])
        seconds, begin = [], [time.perf_counter()]

        def note(*_):
            now = time.perf_counter()
            seconds.append(now - begin[0])
            begin[0] = now
            return False, ""

        model = myfm.MyFMGibbsRegressor(rank=self.factors, random_seed=self.seed)
        model.fit(
            self._indicators(train, users, items), train["rating"], n_iter=number + 1,
            n_kept_samples=1, group_shapes=[users, items], callback=note,
        )  # fmt: skip
        return {"seconds": seconds[1:]}

    def _indicators(self, arrays, users, items):
        count = len(arrays["user"])
        columns = np.stack([arrays["user"], arrays["item"] + users], axis=1).ravel()
        starts = np.arange(0, 2 * count + 1, 2)
        return csr_matrix((np.ones(2 * count), columns, starts), shape=(count, users + items))


def _csr(arrays):
    shape = tuple(int(size) for size in arrays["shape"])
    ones = np.ones(len(arrays["user"]), dtype=np.float32)
    return csr_matrix((ones, (arrays["user"], arrays["item"])), shape=shape)


def main():
    # Whatever a library prints must not get between the answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    with open(answers, "w", buffering=1, encoding="utf-8") as stream:
        serve(sys.argv[1], stream)


def serve(name, answers):
    version = importlib.metadata.version(name)
    kinds = {
        "lenskit": LensKit, "implicit": Implicit, "nutpie": Nutpie, "smurff": Smurff, "myfm": MyFM,
    }  # fmt: skip
    peer = kinds[name]()
    print(json.dumps({"version": version}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
