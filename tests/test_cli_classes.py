"""Classes without an order on the command line: fit, evaluate, recommend, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from probmf import CategoricalFit, metrics
from probmf.cli import app

CLASSES = ("hidden", "skipped", "watched")
FIT = ["--likelihood", "categorical", "--num-factors", 1, "--item-scale", 0.5]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def mistake(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "bug" not in result.stderr
    return " ".join(result.stderr.split())


def write(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    lines = ["user,item,answer", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that depend on the item: even ones are mostly watched."""
    path = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    rows = []
    for user in range(12):
        for item in range(8):
            chance = (0.1, 0.1, 0.8) if item % 2 == 0 else (0.5, 0.4, 0.1)
            rows.append((f"u{user:02}", item, str(rng.choice(CLASSES, p=chance))))
    held = rng.random(len(rows)) < 0.2
    write(path / "train.csv", [row for row, out in zip(rows, held, strict=True) if not out])
    test = [row for row, out in zip(rows, held, strict=True) if out]
    write(path / "test.csv", [*test, ("nobody", 1, "hidden")])
    return path


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    out = folder / "fit"
    result = run(
        "fit", folder / "train.csv", "--rating", "answer", "--method", "map", "--num-epochs", 100,
        "--validation-fraction", 0.1, "--out", out, *FIT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Categorical, 1 factors" in result.stdout
    assert "held-out log loss" in result.stdout
    return out


def test_what_is_saved(folder: Path, saved: Path) -> None:
    fit = CategoricalFit.load(saved)
    assert fit.model.labels == CLASSES
    assert (fit.model.num_factors, fit.model.item_scale, fit.model.user_bias) == (1, 0.5, True)
    table = pa.csv.read_csv(folder / "train.csv").to_pylist()
    answers = {(row["user"], row["item"]): row["answer"] for row in table}
    data = fit.data
    for row in range(len(data)):
        pair = (data.users.ids[data.user[row]], data.items.ids[data.item[row]])
        assert CLASSES[int(data.rating[row])] == answers[pair]


def test_evaluate(folder: Path, saved: Path) -> None:
    words = ["evaluate", saved, folder / "test.csv", "--rating", "answer"]
    scores = json.loads(run(*words, "--json").stdout)
    table = [r for r in pa.csv.read_csv(folder / "test.csv").to_pylist() if r["user"] != "nobody"]
    codes = [CLASSES.index(row["answer"]) for row in table]
    fit = CategoricalFit.load(saved)
    chance = fit.predict([(row["user"], row["item"]) for row in table]).probability
    assert scores["num_ratings"] == len(table)
    assert (scores["num_unknown_user"], scores["num_unknown_item"]) == (1, 0)
    assert scores["errors"] == pytest.approx(
        {
            "log score": metrics.level_log_score(codes, chance, range(3)),
            "accuracy": np.mean(chance.argmax(axis=1) == codes),
        }
    )
    share = np.bincount(fit.data.rating.astype(int)) / len(fit.data)
    assert scores["constant"]["log score"] == pytest.approx(np.log(share[codes]).mean())
    assert scores["errors"]["log score"] > scores["constant"]["log score"]
    told = run(*words)
    assert told.exit_code == 0, told.output
    assert "accuracy" in told.stdout
    assert "left out" in told.stderr


def test_recommend(saved: Path, tmp_path: Path) -> None:
    words = ["recommend", saved, "--user", "u03", "-k", 3, "--seen"]
    result = run(*words, "--wanted", "watched")
    assert result.exit_code == 0, result.output
    assert "probability" in result.stdout
    two = ["--wanted", "hidden", "--wanted", "skipped", "--out", tmp_path / "list.csv"]
    assert run(*words, *two).exit_code == 0
    table = pa.csv.read_csv(tmp_path / "list.csv")
    fit = CategoricalFit.load(saved)
    expected = fit.recommend(["u03"], 3, wanted=["hidden", "skipped"], exclude=None)
    assert table["item"].to_pylist() == expected.item[0].tolist()
    np.testing.assert_allclose(table["score"].to_numpy(), expected.score[0])


def test_nuts_on_numbers_in_parquet(tmp_path: Path) -> None:
    """Numbers are classes too, in their order, 10 after 9; scales are learned."""
    rows = {"user": [1, 1, 2, 2, 3], "item": [1, 2, 1, 2, 1], "rating": [10, 9, 9, 10, 9]}
    pa.parquet.write_table(pa.table(rows), tmp_path / "train.parquet")
    result = run(
        "fit", tmp_path / "train.parquet", "--method", "nuts", "--num-warmup", 10, "--num-samples",
        10, "--num-chains", 1, "--out", tmp_path / "fit", "--stream", tmp_path / "draws", *FIT,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "item_scale" in result.stdout
    fit = CategoricalFit.load(tmp_path / "fit")
    assert fit.model.labels == ("9", "10")
    assert {"item_scale", "user_factors"} <= set(fit.samples)
    assert run("evaluate", tmp_path / "fit", tmp_path / "train.parquet").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--likelihood categorical needs --method map or nuts, but the method is als"),
        (["--method", "map", "--threshold", 2], "--threshold is not for --likelihood categorical"),
        (["--method", "map", "--duplicates", "last"], "--duplicates is not for --likelihood cat"),
        (["--method", "nuts", "--marginalize", "user"], "--marginalize is not for --likelihood"),
        (["--method", "nuts", "--priors", "wishart"], "--priors wishart is not for"),
        (["--method", "map", "--intercept", "learned"], "it is mean or none"),
        (["--method", "map", "--unobserved-weight", 0.1], "classes have no zero; leave it out"),
        (["--method", "map", "--rating", "mark"], "has no column 'mark'"),
    ],
)
def test_mistakes_in_fitting(
    folder: Path, tmp_path: Path, words: list[object], message: str
) -> None:
    file = ["fit", folder / "train.csv", "--rating", "answer", "--out", tmp_path / "fit"]
    assert message in mistake(*file, *FIT, *words)
    assert not (tmp_path / "fit").exists()


def test_mistakes_in_files(folder: Path, saved: Path, tmp_path: Path) -> None:
    fit = ["--rating", "answer", "--method", "map", "--out", tmp_path / "fit", *FIT]
    gap = write(tmp_path / "gap.csv", [("a", 1, "yes"), ("b", 1, "")])
    assert "has no class in row 1; drop such rows" in mistake("fit", gap, *fit)
    many = write(tmp_path / "many.csv", [("a", n, f"class {n}") for n in range(51)])
    assert "has 51 different ratings, which is too many" in mistake("fit", many, *fit)
    judge = ["evaluate", saved, "--rating", "answer"]
    other = write(tmp_path / "other.csv", [("u01", 1, "hidden"), ("u01", 2, "loved")])
    assert "holds 'loved' in row 1, which is none of the fit's classes" in mistake(*judge, other)
    strange = write(tmp_path / "strange.csv", [("nobody", 1, "hidden")])
    assert "No test rating is of a user and an item" in mistake(*judge, strange)
    assert "-k is not for a fit of classes" in mistake(*judge, folder / "test.csv", "-k", 3)


def test_mistakes_in_recommending(saved: Path) -> None:
    words = ["recommend", saved, "--user", "u03", "-k", 2, "--seen"]
    assert "give --wanted, one or more of 'hidden', 'skipped'" in mistake(*words)
    assert "give --wanted" in mistake(*words, "--wanted", "loved")
    assert "leave --rank-by and --interval out" in mistake(
        *words, "--wanted", "hidden", "--interval", 0.5
    )
