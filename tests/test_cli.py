"""The command line: the round trip, every mistake's message, and the demo."""

import errno
import functools
import importlib
import json
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import probmf
from probmf import (
    Bernoulli,
    Gaussian,
    MatrixFactorization,
    Ratings,
    load,
    metrics,
)
from probmf.cli import app, console
from probmf.cli import fit as fit_command
from probmf.cli import words as wording
from probmf.cli.app import COMMANDS
from probmf.cli.fit import Method, show
from probmf.data import Vocabulary
from probmf.datasets import simulate_ratings
from probmf.diagnostics.evaluation import evaluation
from probmf.results import History, RatingsFit

WIDTH = 80
MODEL = ["--num-factors", "2", "--noise-scale", "0.5", "--user-scale", "0.5", "--item-scale", "0.5"]


def run(*words: object) -> Result:
    """A command; a fit is by alternating least squares where no other method is named."""
    given = [str(word) for word in words]
    if given[:1] == ["fit"] and "--method" not in given:
        given += ["--method", "als"]
    return CliRunner().invoke(app, given)


def command_of(name: str) -> Any:
    """The command of a name."""
    group: Any = get_command(app)
    return group.get_command(None, name)


def mistake(*words: object) -> str:
    """The message of a command that has to end with one, and without a traceback."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "bug" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(autouse=True)
def _fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed does not depend on the terminal."""
    monkeypatch.setattr(console.out, "width", WIDTH)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `probmf fit` would have fitted: (method, model, ratings, settings); nothing is."""
    calls: list[Any] = []

    def record(method: str, model: Any, data: Ratings, **settings: Any) -> RatingsFit:
        calls.append((method, model, data, settings))
        return point_fit(data, model=model)

    monkeypatch.setattr(fit_command, "run_method", record)
    return calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of simulated ratings: train and test as CSV and Parquet, and titles."""
    path = tmp_path_factory.mktemp("cli")
    simulation = simulate_ratings(key=0, num_users=60, num_items=40, num_ratings=900, num_factors=2)
    train, test = simulation.ratings.split(key=1, test_fraction=0.1)
    for name, part in (("train", train), ("test", test)):
        pa.csv.write_csv(part.to_arrow(), path / f"{name}.csv")
        pa.parquet.write_table(part.to_arrow(), path / f"{name}.parquet")
    pa.csv.write_csv(train.item_features, path / "items.csv")
    return path


def point_fit(
    ratings: Ratings, *, binary: bool = False, model: MatrixFactorization | None = None
) -> RatingsFit:
    """A fit with random parameters, so that nothing has to be fitted."""
    rng = np.random.default_rng(0)
    if model is None:
        model = MatrixFactorization(2, Bernoulli() if binary else Gaussian(0.5))
    shapes = model.site_shapes(ratings.num_users, ratings.num_items)
    values = {site: 0.5 * rng.normal(size=shape) for site, shape in shapes.items()}
    return RatingsFit.from_point(model, ratings, {"intercept": 0.0, **values}, method="made")


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    """A saved fit to the training file, with titles, by the command line itself."""
    out = folder / "fit"
    result = run(
        "fit", folder / "train.csv", "--items", folder / "items.csv", "--out", out,
        "--validation-fraction", 0.1, *MODEL,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


class TestFit:
    def test_says_what_was_fitted(self, folder: Path, tmp_path: Path) -> None:
        train = Ratings.from_csv(folder / "train.csv")
        seconds = np.array([3.0, 123456.7])
        history = History(np.array([90.0, 80.0]), None, seconds, 2, "num_sweeps", "sweep")
        with console.out.capture() as capture:
            show(replace(point_fit(train), history=history))
        told = " ".join(capture.get().split())
        assert "810 of 40 items by 60 users" in told
        assert "sweeps 2 in 123456.7 s, all that were asked for (sweep limit)" in told

    @pytest.mark.usefixtures("asked")
    @pytest.mark.parametrize("width", [20, 80, 300])
    def test_says_what_is_next_whatever_the_width(
        self, folder: Path, tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(console.out, "width", width)
        out = tmp_path / "a folder with a long name, longer than many a terminal is wide" / "fit"
        result = run("fit", folder / "train.csv", "--out", out)
        assert result.exit_code == 0, result.output
        assert f"Saved in {out}. Next: probmf evaluate {out} TEST\n" in result.stdout

    def test_saves_the_model_that_was_asked_for(self, saved: Path) -> None:
        fit = load(saved)
        assert fit.method == "als/cg"
        assert fit.model.num_factors == 2
        assert fit.model.likelihood == Gaussian(0.5)
        assert (fit.model.user_scale, fit.model.user_bias_scale) == (0.5, 1.0)
        assert fit.history is not None
        assert fit.history.validation is not None
        assert len(fit.data) == 729
        assert fit.data.item_labels([0])[0].startswith("The ")

    def test_csv_and_parquet_give_the_same(
        self, folder: Path, tmp_path: Path, asked: list[Any]
    ) -> None:
        for suffix in ("csv", "parquet"):
            words = ["--num-sweeps", 2, "--out", tmp_path / suffix, *MODEL]
            assert run("fit", folder / f"train.{suffix}", *words).exit_code == 0
        (_, model, csv, settings), (*_, parquet, _) = asked
        assert csv.to_arrow().equals(parquet.to_arrow())
        assert model.num_factors == 2
        assert settings["num_sweeps"] == 2

    def test_columns_threshold_and_likelihood(
        self, folder: Path, tmp_path: Path, asked: list[Any]
    ) -> None:
        table = pa.csv.read_csv(folder / "train.csv")
        table = table.rename_columns(["who", "what", "stars"])
        table = table.append_column("times", pa.array(np.arange(len(table)) % 3 + 1.0))
        pa.csv.write_csv(table, tmp_path / "renamed.csv")
        result = run(
            "fit", tmp_path / "renamed.csv", "--out", tmp_path / "fit", "--user", "who",
            "--item", "what", "--rating", "stars", "--weight", "times", "--threshold", 3.5,
            "--likelihood", "bernoulli", "--num-factors", 1, "--intercept", "learned",
            "--num-sweeps", 2, "--update", "coordinate",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        ((method, model, data, settings),) = asked
        assert (method, settings["update"]) == ("als", "coordinate")
        assert model.likelihood == Bernoulli()
        assert model.intercept == "learned"
        assert set(data.rating) == {0.0, 1.0}
        assert data.weight is not None
        assert data.weight.max() == 3

    def test_pairs_only_with_weak_zeros(
        self, folder: Path, tmp_path: Path, asked: list[Any]
    ) -> None:
        result = run(
            "fit", folder / "train.csv", "--pairs-only", "--unobserved-weight", 0.1,
            "--num-factors", 1, "--intercept", "none", "--no-user-bias", "--no-item-bias",
            "--num-sweeps", 2, "--out", tmp_path / "fit",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        ((_, model, data, _),) = asked
        assert set(data.rating) == {1.0}
        assert (model.intercept, model.user_bias, model.item_bias) == (None, False, False)

    @pytest.mark.usefixtures("asked")
    def test_events_have_scores_and_no_intervals(self, folder: Path, tmp_path: Path) -> None:
        out, test = tmp_path / "fit", folder / "test.csv"
        words = ["--pairs-only", "--unobserved-weight", 0.1, "--out", out]
        assert run("fit", folder / "train.csv", *words).exit_code == 0
        result = run("recommend", out, "--user", 3)
        assert "score" in result.stdout
        assert "rating" not in result.stdout
        assert "interval" not in result.stdout
        got = mistake("recommend", out, "--user", 3, "--interval", 0.5)
        assert got.endswith("its scores have no intervals. Leave --interval out.")
        judged = json.loads(run("evaluate", out, test, "--json").stdout)
        assert (judged["errors"], judged["coverage"]) == ({}, {})
        assert "only lists are judged" in judged["remarks"][0]
        assert judged["ranking"]
        assert "Errors" not in run("evaluate", out, test).stdout

    def test_gradient_descent(self, folder: Path, tmp_path: Path, asked: list[Any]) -> None:
        result = run(
            "fit", folder / "train.csv", "--method", "map", "--num-epochs", 3, "--batch-size", 64,
            "--restarts", 2, "--out", tmp_path / "fit", *MODEL,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        ((method, _, _, settings),) = asked
        assert method == "map"
        given = {"num_epochs": 3, "batch_size": 64, "restarts": 2}
        assert settings.items() >= given.items()

    def test_a_fit_is_replaced_by_force_only(
        self, folder: Path, tmp_path: Path, asked: list[Any]
    ) -> None:
        words = ["fit", folder / "train.csv", "--out", tmp_path / "fit"]
        assert run(*words).exit_code == 0
        before = (tmp_path / "fit" / "fit.json").read_bytes()
        got = mistake(*words, "--num-factors", 3)
        assert got.endswith("holds a fit already. Give another folder, or --force to replace it.")
        assert (tmp_path / "fit" / "fit.json").read_bytes() == before
        assert len(asked) == 1
        assert run(*words, "--num-factors", 3, "--force").exit_code == 0
        assert load(tmp_path / "fit").model.num_factors == 3
        (tmp_path / "fit" / "plot.png").write_text("mine")
        got = mistake(*words, "--force")
        assert "holds more than a saved fit (plot.png), which would be lost" in got
        assert len(asked) == 2

    def test_gibbs(self, folder: Path, tmp_path: Path) -> None:
        result = run(
            "fit", folder / "train.csv", "--method", "gibbs", "--priors", "wishart", "--num-warmup",
            20, "--num-samples", 40, "--thin", 10, "--checkpoint", tmp_path / "run", "--out",
            tmp_path / "fit", *MODEL,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "2 x 40 sweeps in" in result.stdout
        assert "noise_scale" in result.stdout
        fit = load(tmp_path / "fit")
        assert (fit.method, fit.num_chains, fit.num_draws) == ("gibbs", 2, 4)
        assert "noise_scale" in fit.samples
        user = fit.data.users.ids[0]
        for words in (
            ["evaluate", tmp_path / "fit", folder / "test.csv"],
            ["recommend", tmp_path / "fit", "--user", user],
        ):
            told = run(*words)
            assert told.exit_code == 0, told.output

    @pytest.mark.parametrize("method", ["gibbs", "nuts"])
    @pytest.mark.slow
    def test_streams(self, folder: Path, tmp_path: Path, method: str) -> None:
        words = ["fit", folder / "train.csv", "--method", method, "--force", "--num-warmup", 20,
                 "--num-samples", 10, "--num-chains", 1, "--out", tmp_path / "fit", "--stream",
                 tmp_path / "draws", "--checkpoint", tmp_path / "run", *MODEL]  # fmt: skip
        if method == "nuts":
            words += ["--marginalize", "user", "--num-factors", 1]
        for _ in range(2):  # the second time from checkpoint and stream
            result = run(*words)
            assert result.exit_code == 0, result.output
            assert "10 draws of each chain" in result.stdout
            assert "noise_scale" in result.stdout
            fit = load(tmp_path / "fit")
            np.testing.assert_array_equal(
                probmf.results.open_draws(tmp_path / "draws")["posterior"]["user_factors"].values,
                fit.samples["user_factors"],
            )
        assert fit.method == ("gibbs" if method == "gibbs" else "nuts/marginal")
        place = words.index("--checkpoint")
        got = mistake(*words[:place], *words[place + 2 :])
        assert "holds draws of this run already" in got

    @pytest.mark.parametrize(
        "words",
        [
            ["variational", "--covariance", "block"],
            pytest.param(["svi", "--num-steps", 1000, "--num-samples", 50], marks=pytest.mark.slow),
        ],
        ids=["variational", "svi"],
    )
    @pytest.mark.slow
    def test_approximations(self, folder: Path, tmp_path: Path, words: list[object]) -> None:
        out = tmp_path / "fit"
        result = run("fit", folder / "train.csv", "--out", out, *MODEL, "--method", *words)
        assert result.exit_code == 0, result.output
        fit = load(out)
        assert fit.method.startswith(str(words[0]))
        assert "noise_scale" in fit.samples
        told = run("evaluate", out, folder / "test.csv")
        assert told.exit_code == 0, told.output

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--guide", "normal"], "--guide belongs to --method svi, but the method is als"),
            (["--priors", "fixed"], "--priors belongs to --method gibbs or nuts or variational or"),
            (
                ["--stream", "s"],
                "--stream belongs to --method gibbs or nuts, but the method is als",
            ),
            (
                ["--method", "gibbs", "--marginalize", "user"],
                "--marginalize belongs to --method nu",
            ),
            (
                ["--method", "nuts", "--marginalize", "user", "--no-user-bias", "--num-factors", 0],
                "--marginalize is user, but the model has neither user biases nor factors",
            ),
            (["--thin", 3], "--thin belongs to --method gibbs, but the method is als"),
            (["--method", "gibbs", "--validation-fraction", 0.1], "does not stop by them"),
            (["--num-epochs", 3], r"--num-epochs belongs to --method map, but the method is als"),
            (["--method", "map", "--solver", "cg"], "--solver belongs to --method als"),
            (["--intercept", "x"], "--intercept is 'x'; expected mean, learned, none, or a number"),
            (["--noise-scale", -1], "--noise-scale is -1; a scale is a standard deviation"),
            (["--user", "who"], "has no column 'who'; its columns are: 'user', 'item', 'rating'"),
            (["--likelihood", "bernoulli"], "A Bernoulli likelihood needs ratings 0 or 1"),
            (["--likelihood", "bernoulli"], "--threshold, or use --likelihood gaussian."),
            (
                ["--validation-fraction", 2],
                "--validation-fraction is 2.0, expected a number",
            ),
            (["--users", "nobody.csv"], "There is no file nobody.csv"),
        ],
    )
    def test_mistakes(
        self, folder: Path, tmp_path: Path, words: list[object], message: str
    ) -> None:
        got = mistake("fit", folder / "train.csv", "--out", tmp_path / "fit", *words)
        assert message in got
        assert not (tmp_path / "fit").exists()

    def test_mistakes_in_the_file(self, folder: Path, tmp_path: Path) -> None:
        out = ["--out", tmp_path / "fit"]
        assert (
            mistake("fit", tmp_path / "no.csv", *out) == f"There is no file {tmp_path / 'no.csv'}."
        )
        assert "neither as CSV" in mistake("fit", tmp_path / "ratings.xlsx", *out)
        twice = tmp_path / "twice.csv"
        twice.write_text("user,item,rating\n1,7,3\n1,7,4\n2,7,4\n")
        assert "User 1 and item 7 occur together in rows 0 and 1" in mistake("fit", twice, *out)
        broken = tmp_path / "broken.parquet"
        broken.write_text("not Parquet")
        assert "could not be read as Parquet" in mistake("fit", broken, *out)
        decimal = tmp_path / "decimal.parquet"
        ids = pa.array([Decimal(1), Decimal(2)])
        pa.parquet.write_table(pa.table({"user": ids, "item": ids, "rating": [1.0, 2.0]}), decimal)
        assert "The ids are Decimal objects, for which there is" in mistake("fit", decimal, *out)
        stray = tmp_path / "stray.csv"
        stray.write_text("item,title\nx,Alien\n")
        got = mistake("fit", folder / "train.csv", "--items", stray, *out)
        assert "'x' is no item id of this fit: its item ids are integers, such as 1, 2, 3." in got

    def test_will_not_overwrite_another_folder(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "precious.txt").write_text("mine")
        got = mistake("fit", folder / "train.csv", "--num-sweeps", 1, "--out", tmp_path, *MODEL)
        assert "exists and is not a saved fit" in got
        assert (tmp_path / "precious.txt").read_text() == "mine"

    def test_a_place_where_nothing_can_be_written_is_told_first(
        self, folder: Path, tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["fit", folder / "train.csv", "--out"]
        got = mistake(*words, folder / "train.csv" / "deep" / "fit")
        assert f"{folder / 'train.csv'} is a file, so that" in got
        monkeypatch.setattr(os, "access", lambda place, _: place != tmp_path)
        assert "Nothing can be written in" in mistake(*words, tmp_path / "new" / "fit")
        within = ["--checkpoint", folder / "new" / "run", "--out", folder / "new"]
        assert "which holds the fit and nothing else" in mistake(*words[:2], *within)
        assert asked == []

    def test_debug_shows_the_exception(self, tmp_path: Path) -> None:
        result = run("fit", tmp_path / "no.csv", "--out", tmp_path / "fit", "--debug")
        assert isinstance(result.exception, FileNotFoundError)


class TestEvaluate:
    def test_json_agrees_with_the_metrics(self, folder: Path, saved: Path) -> None:
        result = run("evaluate", saved, folder / "test.csv", "-k", 3, "-k", 5, "--json")
        assert result.exit_code == 0, result.output
        scores = json.loads(result.stdout)
        fit, test = load(saved), Ratings.from_csv(folder / "test.csv")
        predicted = fit.predict(test, interval=0.5)
        assert scores["num_ratings"] == 90
        assert scores["errors"]["RMSE"] == pytest.approx(metrics.rmse(test.rating, predicted.mean))
        assert scores["coverage"]["0.5"] == pytest.approx(
            metrics.coverage(test.rating, predicted.lower, predicted.upper)
        )
        assert scores["errors"]["log score"] == pytest.approx(
            metrics.log_score(test.rating, predicted.mean, predicted.sd)
        )
        assert scores["constant"]["RMSE"] == pytest.approx(
            metrics.rmse(test.rating, np.full(90, fit.data.mean))
        )
        assert list(scores["ranking"]) == ["3", "5"]

    def test_ranking_by_hand(self, saved: Path, tmp_path: Path) -> None:
        fit = load(saved)
        best = fit.recommend([1, 2], k=2).item
        # User 1 finds a relevant item first; user 2 a relevant one second; 3 has none that is.
        last = fit.recommend([3], k=1).item[0, 0]
        rows = {
            "user": [1, 2, 3],
            "item": [best[0, 0], best[1, 1], last],
            "rating": [5.0, 5.0, 1.0],
        }
        pa.csv.write_csv(pa.table(rows), tmp_path / "test.csv")
        result = run(
            "evaluate", saved, tmp_path / "test.csv", "-k", 2, "--relevant-from", 4, "--json"
        )
        scores = json.loads(result.stdout)
        assert scores["num_ranked_users"] == 2
        assert scores["ranking"]["2"] == pytest.approx(
            {"recall": 1.0, "precision": 0.5, "NDCG": (1 + 1 / np.log2(3)) / 2, "MAP": 0.75}
        )
        hits = []
        for user, item in ((1, best[0, 0]), (2, best[1, 1])):
            degree = fit.data.item_degree.astype(float)
            degree[fit.data.item[fit.data.user == fit.data.users.encode([user])[0]]] = -1
            most = fit.data.items.ids[np.argsort(-degree, kind="stable")[:2]]
            hits.append(item in most)
        assert scores["popular"]["2"]["recall"] == np.mean(hits)

    def test_tables(self, folder: Path, saved: Path) -> None:
        result = run("evaluate", saved, folder / "test.parquet")
        assert result.exit_code == 0, result.output
        for word in (
            "RMSE",
            "MAE",
            "log score",
            "Coverage",
            "90%",
            "NDCG",
            "popular",
            "every test item",
        ):
            assert word in result.stdout

    def test_yes_no_data(self, folder: Path, tmp_path: Path) -> None:
        train = Ratings.from_csv(folder / "train.csv").binarize(3.5)
        point_fit(train, binary=True).save(tmp_path / "fit")
        words = ["evaluate", tmp_path / "fit", folder / "test.csv"]
        result = run(*words, "--threshold", 3.5, "--json")
        assert result.exit_code == 0, result.output
        scores = json.loads(result.stdout)
        test = Ratings.from_csv(folder / "test.csv").binarize(3.5)
        chance = load(tmp_path / "fit").predict(test).mean
        assert scores["errors"] == pytest.approx(
            {
                "log loss": metrics.log_loss(test.rating, chance),
                "Brier score": metrics.brier(test.rating, chance),
                "AUC": metrics.auc(test.rating, chance),
            }
        )
        assert scores["relevant"] == "test rating at least 1"
        table = run(*words, "--threshold", 3.5)
        assert "AUC" in table.stdout
        assert "A Bernoulli likelihood needs ratings 0 or 1" in mistake(*words)

    def test_ids_that_look_like_numbers_in_the_test_file_only(self, tmp_path: Path) -> None:
        train = Ratings.from_frame(
            {"user": ["7", "8", "anna"], "item": ["1", "2", "1"], "rating": [5.0, 3.0, 4.0]}
        )
        point_fit(train).save(tmp_path / "fit")
        (tmp_path / "test.csv").write_text("user,item,rating\n7,2,4\n8,1,2\n")
        result = run("evaluate", tmp_path / "fit", tmp_path / "test.csv", "-k", 1, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["num_unknown_user"] == 0

    def test_columns_are_those_of_the_fit(
        self, folder: Path, tmp_path: Path, asked: list[Any]
    ) -> None:
        """Evaluate and recommend read files as the fit was read, unless told otherwise."""
        for name in ("train", "test"):
            table = pa.csv.read_csv(folder / f"{name}.csv").rename_columns(["who", "what", "stars"])
            pa.csv.write_csv(table, tmp_path / f"{name}.csv")
        (tmp_path / "few.csv").write_text("what\n3\n4\n5\n")
        columns = ["--user", "who", "--item", "what", "--rating", "stars"]
        fit = ["fit", tmp_path / "train.csv", *columns, "--out"]
        binary = ["--threshold", 3.5, "--likelihood", "bernoulli"]
        assert run(*fit, tmp_path / "fit").exit_code == 0
        assert run(*fit, tmp_path / "liked", *binary).exit_code == 0
        words = ["evaluate", tmp_path / "fit", tmp_path / "test.csv", "--json"]
        assert run(*words).stdout == run(*words, *columns).stdout
        nothing = run(*words, "--relevant-from", 99)
        assert "No list is judged: no test pair is relevant (test rating" in nothing.stdout
        assert "errors and coverage are not" in run(*words, "--pairs-only").stderr
        other = ["evaluate", tmp_path / "fit", folder / "test.csv", "--json"]
        assert "has no column 'who'" in mistake(*other)
        own = ["--user", "user", "--item", "item", "--rating", "rating"]
        assert run(*other, *own).stdout == run(*words).stdout
        liked = run("evaluate", tmp_path / "liked", tmp_path / "test.csv", "--json")
        assert json.loads(liked.stdout)["errors"].keys() >= {"log loss"}
        assert "Ratings of at least 3.5 are taken for yes" in liked.stderr
        few = ["recommend", tmp_path / "fit", "--user", 1, "-k", 1, "--candidates"]
        assert run(*few, tmp_path / "few.csv", "--seen").exit_code == 0
        assert "has no column 'item'" in mistake(*few, tmp_path / "few.csv", "--item", "item")
        out = tmp_path / "out.csv"
        assert run("recommend", tmp_path / "fit", "--all", "-k", 2, "--out", out).exit_code == 0
        written = pa.csv.read_csv(out)
        assert written.column_names == ["who", "what", "rank", "score"]
        best = load(tmp_path / "fit").recommend(k=2)
        assert written["what"].to_pylist() == best.item.ravel().tolist()

    def test_columns_that_are_called_as_the_file_calls_its_own(
        self, folder: Path, tmp_path: Path
    ) -> None:
        table = pa.csv.read_csv(folder / "train.csv").rename_columns(["user", "rank", "rating"])
        pa.csv.write_csv(table, tmp_path / "train.csv")
        words = ["fit", tmp_path / "train.csv", "--item", "rank", "--out", tmp_path / "fit"]
        assert run(*words).exit_code == 0
        written = run("recommend", tmp_path / "fit", "--all", "--out", tmp_path / "out.csv")
        assert written.exit_code == 0, written.output
        names = pa.csv.read_csv(tmp_path / "out.csv").column_names
        assert names == ["user", "item", "rank", "score"]

    def test_says_that_every_pair_was_trained_on(self, folder: Path, tmp_path: Path) -> None:
        train = Ratings.from_csv(folder / "train.csv")
        point_fit(train).save(tmp_path / "fit")
        told = json.loads(run("evaluate", tmp_path / "fit", folder / "train.csv", "--json").stdout)
        assert told["ranking"]["10"]["recall"] == 0
        assert any("trained on every one of these pairs" in remark for remark in told["remarks"])
        lines = (folder / "test.csv").read_text().splitlines()
        lines += (folder / "train.csv").read_text().splitlines()[1:8]
        (tmp_path / "both.csv").write_text("\n".join(lines))
        shown = run("evaluate", tmp_path / "fit", tmp_path / "both.csv").stdout
        assert "trained on 7 of the 97 relevant pairs" in shown
        assert "trained" not in run("evaluate", tmp_path / "fit", folder / "test.csv").stdout

    @pytest.mark.parametrize("unit", [1.0, 1000.0])
    @pytest.mark.parametrize(("scale", "wide"), [(3.0, True), (0.3, False)])
    def test_says_that_intervals_are_wide_and_the_constant_wins(
        self, scale: float, wide: bool, unit: float
    ) -> None:
        """Ratings of a fit that knows them to the noise; the same in any unit."""
        rng = np.random.default_rng(0)
        user, item = np.divmod(np.arange(600), 30)
        effect = rng.normal(size=20)
        rating = unit * (effect[user] + 0.3 * rng.normal(size=600))
        kept = rng.random(600) < 0.7
        train, test = (
            Ratings.from_frame({"user": user[rows], "item": item[rows], "rating": rating[rows]})
            for rows in (kept, ~kept)
        )
        model = MatrixFactorization(
            0, Gaussian(unit * scale), intercept=0.0, item_bias=False, user_bias_scale=unit
        )
        values = {"intercept": 0.0, "user_bias": unit * effect}
        scores = evaluation(RatingsFit.from_point(model, train, values, method="made"), test)
        remarks = " ".join(scores.remarks)
        assert ("intervals are" in remarks) == wide
        assert ("By log score the constant does better" in remarks) == wide
        assert len(scores.remarks) == 2 * wide

    def test_unknown_users_are_counted(self, folder: Path, saved: Path, tmp_path: Path) -> None:
        (tmp_path / "test.csv").write_text("user,item,rating\n1,2,4\n999,2,4\n")
        result = run("evaluate", saved, tmp_path / "test.csv")
        assert result.exit_code == 0, result.output
        assert "1 of the ratings are of a user without training ratings" in " ".join(
            result.stderr.split()
        )

    def test_mistakes(self, folder: Path, saved: Path, tmp_path: Path) -> None:
        test = folder / "test.csv"
        assert "is not a saved fit: it has no fit.json" in mistake("evaluate", tmp_path, test)
        assert "There is no file" in mistake("evaluate", saved, tmp_path / "no.csv")
        assert "-k is 41; expected a whole number from 1 to 40" in mistake(
            "evaluate", saved, test, "-k", 41
        )
        words = tmp_path / "words.csv"
        words.write_text("user,item,rating\nanna,2,4\n")
        assert "'anna' is no user id of this fit" in mistake("evaluate", saved, words)


class TestRecommend:
    def test_titles_scores_and_intervals(self, saved: Path) -> None:
        result = run("recommend", saved, "--user", 3, "--user", 5, "-k", 4)
        assert result.exit_code == 0, result.output
        fit = load(saved)
        recommended = fit.recommend([3, 5], k=4, interval=0.9)
        for row, name in enumerate(("user 3", "user 5")):
            assert f"Recommended to {name}" in result.stdout
            for place, title in enumerate(fit.data.item_labels(recommended.code[row])):
                assert title in result.stdout
                assert f"{recommended.score[row, place]:.2f}" in result.stdout
        assert "90% interval" in result.stdout

    def test_everybody_to_a_file(self, saved: Path, tmp_path: Path) -> None:
        for name in ("out.csv", "out.parquet"):
            result = run("recommend", saved, "--all", "-k", 2, "--out", tmp_path / name)
            assert result.exit_code == 0, result.output
            assert "60 users" in result.stdout.replace("\n", " ")
        table = pa.csv.read_csv(tmp_path / "out.csv")
        assert table.column_names == ["user", "item", "title", "rank", "score"]
        assert table.num_rows == 120
        assert table.equals(pa.parquet.read_table(tmp_path / "out.parquet"))
        expected = load(saved).recommend(k=2).item.ravel()
        assert table["item"].to_pylist() == expected.tolist()

    def test_options(self, saved: Path, tmp_path: Path) -> None:
        (tmp_path / "few.csv").write_text("item\n3\n4\n5\n")
        out = tmp_path / "out.csv"
        result = run(
            "recommend", saved, "--user", 1, "-k", 3, "--candidates", tmp_path / "few.csv",
            "--seen", "--rank-by", "thompson", "--interval", 0.5, "--out", out,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        table = pa.csv.read_csv(out)
        assert sorted(table["item"].to_pylist()) == [3, 4, 5]
        assert {"lower", "upper"} < set(table.column_names)

    def test_no_interval(self, saved: Path) -> None:
        assert "interval" not in run("recommend", saved, "--user", 1, "--interval", 0).stdout

    @pytest.mark.parametrize("kind", ["text", "UUIDs"])
    def test_ids_of_other_kinds(self, kind: str, tmp_path: Path) -> None:
        ids = ["[x]", "7"] if kind == "text" else [UUID(int=7), UUID(int=8)]
        train = Ratings.from_frame(
            {"user": [ids[0], ids[0], ids[1]], "item": [1, 2, 1], "rating": [5.0, 3.0, 4.0]}
        )
        point_fit(train).save(tmp_path / "fit")
        result = run("recommend", tmp_path / "fit", "--user", ids[1], "-k", 1)
        assert result.exit_code == 0, result.output
        assert f"Recommended to user {ids[1]}" in result.stdout
        got = mistake("recommend", tmp_path / "fit", "--user", "zz")
        assert f"such as {ids[1] if kind == 'text' else ids[0]}" in got

    def test_titles_may_hold_square_brackets(self, tmp_path: Path) -> None:
        train = Ratings.from_frame({"user": ["u", "v"], "item": [1, 2], "rating": [5.0, 3.0]})
        features = pa.table({"item": [1, 2], "title": ["[red]", "[/red]"]})
        point_fit(replace(train, item_features=features)).save(tmp_path / "fit")
        result = run("recommend", tmp_path / "fit", "--user", "u", "-k", 1)
        assert "[/red]" in result.stdout

    def test_a_user_without_ratings_is_pointed_out(self, tmp_path: Path) -> None:
        train = Ratings.from_frame(
            {"user": [1, 2], "item": [1, 2], "rating": [5.0, 3.0]},
            users=Vocabulary("user", [1, 2, 3]),
        )
        point_fit(train).save(tmp_path / "fit")
        result = run("recommend", tmp_path / "fit", "--user", 3, "-k", 1)
        assert "User 3 has no training ratings" in result.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "Say whom to recommend to: either --user ID (once or more) or --all."),
            (["--user", 1, "--all"], "Say whom to recommend to"),
            (["--all"], "--all recommends to every user; give --out FILE"),
            (["--all", "--out", "a.txt"], "a.txt is named neither as CSV"),
            (["--user", "anna"], "'anna' is no user id of this fit: its user ids are integers"),
            (["--user", 1, "--user", 999], "The fit has no user 999: it knows 60 users, such as 1"),
            (["--user", 1, "-k", 99], "-k is 99; expected a whole number from 1 to 40"),
            (["--user", 1, "--interval", 2], "--interval is 2.0; expected a probability"),
            (["--user", 1, "--candidates", "no.csv"], "There is no file no.csv"),
            (["--user", "007"], "'007' is no user id of this fit: its user ids are integers"),
            (["--user", "1_0"], "'1_0' is no user id"),
            (["--all", "--out", "nowhere/a.csv"], "There is no folder"),
        ],
    )
    def test_mistakes(self, saved: Path, words: list[object], message: str) -> None:
        assert message in mistake("recommend", saved, *words)

    def test_mistakes_in_the_candidates(self, saved: Path, tmp_path: Path) -> None:
        file = tmp_path / "few.csv"
        file.write_text("film\n3\n")
        words = ["recommend", saved, "--user", 1, "-k", 1, "--candidates", file]
        assert "has no column 'item' with the ids of the candidates" in mistake(*words)
        file.write_text("item\n3\n99\n")
        assert "99" in mistake(*words)
        pa.parquet.write_table(pa.table({"item": [3, None]}), tmp_path / "few.parquet")
        got = mistake(*words[:-1], tmp_path / "few.parquet")
        assert "few.parquet has 1 missing value (None, NaN or null), the first in row 1" in got

    def test_files_are_what_their_names_say_and_whole(
        self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["recommend", saved, "--all", "-k", 40, "--out"]
        for name in ("OUT.TSV", "out.csv.gz"):
            found = run(*words, tmp_path / name)
            assert "up to 40 items for each of 60 users" in found.stdout.replace("\n", " ")
        delimited = pa.csv.ParseOptions(delimiter="\t")
        one = pa.csv.read_csv(tmp_path / "OUT.TSV", parse_options=delimited)
        assert one.equals(pa.csv.read_csv(tmp_path / "out.csv.gz"))
        before = (tmp_path / "OUT.TSV").read_bytes()

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pa.csv, "write_csv", full)
        assert "No space left" in mistake(*words, tmp_path / "OUT.TSV")
        assert (tmp_path / "OUT.TSV").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2


def test_demo(tmp_path: Path) -> None:
    result = run("demo", "--small", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for words in (
        "80 users rated 50 films 1,500 times", "All four find the same minimum",
        "the truth (noise)",
        "90% interval", "true score", "nothing was fitted again", "the same to the last bit",
    ):  # fmt: skip
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    names = ["convergence", "predictions", "calibration", "recommendations", "factors", "degrees"]
    assert {f"{name}.png" for name in names} | {"fit"} == {
        path.name for path in (tmp_path / "demo").iterdir()
    }
    assert len(load(tmp_path / "demo" / "fit").data) > 1000


def test_options_of_other_programs_are_named(folder: Path) -> None:
    result = run("fit", folder / "train.csv", "--out", "x", "--rank", 3)
    assert result.exit_code == 2
    assert "--num-factors" in result.output
    assert "--rating" not in result.output


def test_words_of_the_command_line_are_options_of_it() -> None:
    """Advice names options that there are, and every option has one name."""
    of_each = [
        {name for param in command_of(one).params for name in param.opts} for one in COMMANDS
    ]
    options = set().union(*of_each)
    for name in (*wording.NAMES, *wording.WORDS):
        assert wording.option_of(name) in options
    for other, meant in wording.MEANT.items():
        assert {*meant.split(", ")} <= options
        assert not any({*meant.split(", "), other} <= own for own in of_each)
    methods = [*get_args(Method)[1:], "likelihood", "marginal"]  # All but "auto".
    assert {option.removeprefix("--method ") for option in wording.METHODS.values()} == {*methods}


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("Raise num_sweeps, or lower tol.", "Raise --num-sweeps, or lower tol."),
        ("k is 9; give fewer.", "-k is 9; give fewer."),
        ("name it: rating=. Or duplicates='mean'", "name it: --rating. Or --duplicates mean"),
        ("Use batch_size=None, or fit_als.", "Use no --batch-size, or --method als."),
        ("num_factors=0 says so.", "--num-factors 0 says so."),
        ("its columns are 'user_bias', 'k'.", "its columns are 'user_bias', 'k'."),
        ("a user rates an item k times", "a user rates an item k times"),
    ],
)
def test_advice_in_options(python: str, told: str) -> None:
    assert wording.in_options(python) == told


@pytest.mark.parametrize("command", ["fit", "evaluate", "recommend", "demo"])
def test_flags_take_no_value(command: str) -> None:
    params = command_of(command).params
    flags = [param for param in params if getattr(param, "is_flag", False)]
    assert flags
    for flag in flags:
        assert flag.metavar == ""


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"probmf {probmf.__version__}\n"


@pytest.mark.parametrize("command", [[], ["fit"], ["evaluate"], ["recommend"], ["demo"]])
def test_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    group, x = np.arange(60) % 6, rng.normal(size=60)
    y = 1 + x + rng.normal(size=6)[group] + 0.5 * rng.normal(size=60)
    path = tmp_path_factory.mktemp("mixed") / "table.csv"
    pa.csv.write_csv(pa.table({"y": y, "x": x, "g": [f"g{code}" for code in group]}), path)
    return path


class TestAutomaticFit:
    def test_is_the_function_of_the_package(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train = Ratings.from_csv(folder / "train.csv")
        made = point_fit(train)
        calls: list[Any] = []
        monkeypatch.setattr(
            probmf.inference.default_fit, "fit",
            lambda data, **settings: calls.append((data, settings)) or made,
        )  # fmt: skip
        words = ["fit", str(folder / "train.csv"), "--out", str(tmp_path / "fit"), "--seed", "7"]
        found = CliRunner().invoke(app, [*words, "--num-factors", "3"])
        assert found.exit_code == 0, found.output
        ((data, settings),) = calls
        assert (len(data), settings) == (len(train), {"num_factors": 3, "key": 7})

    @pytest.mark.parametrize("option", ["--user-scale", "--likelihood", "--no-user-bias"])
    def test_a_choice_needs_a_method_that_takes_it(
        self, folder: Path, tmp_path: Path, option: str
    ) -> None:
        value = {"--user-scale": ["1"], "--likelihood": ["bernoulli"]}.get(option, [])
        words = ["fit", str(folder / "train.csv"), "--out", str(tmp_path), option, *value]
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 1
        told = " ".join(found.stderr.split())
        assert f"{option.replace('-no', '')} is for the methods that leave the model to you" in told


class TestMixed:
    FORMULA = "y ~ x + (1 | g)"

    def test_summary_and_saved_fit(self, table: Path, tmp_path: Path) -> None:
        out = tmp_path / "fit"
        found = run("mixed", self.FORMULA, table, "--method", "likelihood", "--out", out)
        assert found.exit_code == 0, found.output
        assert "60 observations" in found.stdout
        assert "g: 6 groups" in found.stdout
        assert "coefficients[x] " in found.stdout
        fit = load(out)
        row = next(line for line in found.stdout.splitlines() if line.startswith("noise_scale"))
        assert float(row.split()[1]) == pytest.approx(float(fit.point()["noise_scale"]), rel=1e-3)
        assert "holds a fit already" in mistake("mixed", self.FORMULA, table, "--out", out)

    def test_json_and_arviz_of_draws(self, table: Path, tmp_path: Path) -> None:
        tree = tmp_path / "draws.zarr"
        found = run(
            "mixed", self.FORMULA, table, "--num-samples", 100, "--json", "--arviz", tree,
        )  # fmt: skip
        assert found.exit_code == 0, found.output
        told = json.loads(found.stdout)
        assert (told["observations"], told["groups"]) == (60, {"g": 6})
        names = [row["name"] for row in told["summary"]]
        assert names == ["coefficients[Intercept]", "coefficients[x]", "g_scale[Intercept]",
                         "noise_scale"]  # fmt: skip
        assert {"posterior", "posterior_predictive", "log_likelihood"} <= {
            path.name for path in tree.iterdir()
        }
        assert "is there already" in mistake("mixed", self.FORMULA, table, "--arviz", tree)

    def test_gaps_are_missing_and_ids_stay_as_they_are_written(
        self, table: Path, tmp_path: Path
    ) -> None:
        rows = pa.csv.read_csv(table).to_pydict()
        ids = ["007", "7", "08", "x", "9", "10"]
        rows["g"] = [ids[int(name[1:])] for name in rows["g"]]
        rows["sex"] = ["f", "m"] * 30
        words = [tmp_path / "A.TSV", "--method", "likelihood"]

        def write(name: str, **columns: Any) -> None:
            tabs = pa.csv.WriteOptions(delimiter="\t", quoting_style="none")
            pa.csv.write_csv(pa.table(rows | columns), tmp_path / name, tabs)

        for gap in ("", "NA"):
            for name in ("sex", "g"):
                write("A.TSV", **{name: [gap, *rows[name][1:]]})
                got = mistake("mixed", "y ~ x + sex + (1 | g)", *words)
                assert f"Column {name!r} has 1 missing value (None, NaN or null), the first" in got
        write("A.TSV")
        found = run("mixed", self.FORMULA, *words, "--out", tmp_path / "fit")
        assert found.exit_code == 0, found.output
        assert load(tmp_path / "fit").design.levels["g"].tolist() == sorted(ids)
        write("few.tsv", g=["9", "10"] * 30)
        found = run("report", tmp_path / "fit", "--test", tmp_path / "few.tsv")
        assert found.exit_code == 0, found.output

    def test_the_method_of_a_response_that_is_not_normal(
        self, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = pa.csv.read_csv(table)
        y = rows["y"].to_numpy()
        path = tmp_path / "counts.csv"
        rows = rows.append_column("z", pa.array(np.round(np.exp(y / 2)).astype(int)))
        pa.csv.write_csv(rows.append_column("w", pa.array(y**2)), path)
        words = ("--likelihood", "poisson", "--num-samples", 20, "--json")
        calls: list[tuple[str, dict[str, Any]]] = []

        def reached(name: str, *_: Any, **settings: Any) -> None:
            calls.append((name, settings))
            raise SystemExit(0)

        module = importlib.import_module("probmf.cli.mixed")
        monkeypatch.setattr(module, "sample_nuts", functools.partial(reached, "nuts"))
        found = run("mixed", "z ~ x + (1 + x + w | g)", path, *words)
        assert found.exit_code == 0, found.output
        assert "so NUTS draws all of them" in " ".join(found.stderr.split())
        monkeypatch.setattr(module, "sample_marginal", functools.partial(reached, "marginal"))
        assert run("mixed", "z ~ x + (1 | g)", path, *words).exit_code == 0
        settings = {"key": 0, "num_samples": 20}
        assert calls == [("nuts", settings), ("marginal", settings)]

    def test_mistakes(self, table: Path) -> None:
        assert "z" in mistake("mixed", "y ~ z + (1 | g)", table)
        told = mistake("mixed", self.FORMULA, table, "--method", "restricted", "--num-samples", 5)
        assert "--num-samples belongs to --method marginal or nuts" in told
        assert "ends in .nc or in .zarr" in mistake("mixed", self.FORMULA, table, "--arviz", "a.b")
        assert "likelihood is 'probit'" in mistake(
            "mixed", self.FORMULA, table, "--likelihood", "probit"
        ).replace("--likelihood", "likelihood")
