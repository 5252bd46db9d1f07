"""Recommender: a deep network of embeddings predicts the ratings of films.

MovieLens 100K (Harper and Konstan, 2015): the network embeds user, film,
occupation, age and the film's year, and adds the product of user and film to
what wide layers see; beside it goes the wide part of arXiv 1606.07792, a weight
for each user, film, and pair of an occupation and a film.  Everybody's latest
tenth of ratings is to validate: the past predicts the future.

Besides the error of a rating, recall@10: all films that a user had not rated
before are ranked; of those that the user liked later (4 or 5 stars), it is the
share among the first ten, as a mean over users.

The data come from the wheel recbole==1.2.1, of which nothing is installed.
"""

from __future__ import annotations

import csv
import io
import pathlib
import zipfile
from typing import Any

import keras
import numpy as np
from keras import layers

from examples.harness import files
from examples.harness.example import Data, Example, Metric, cosine
from examples.harness.settings import Size

WHEEL = "recbole==1.2.1"
FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
# The columns of the inputs, and how many numbers each has at most.
SIZES = {"user": 944, "film": 1683, "occupation": 32, "age": 100, "year": 128}
DIMENSIONS, WIDTHS = 64, (256, 128, 64)
SMOKE, BEST, LIKED = 512, 10, 4


def data(size: Size, data_dir: pathlib.Path) -> Data:
    """Columns as in SIZES, int32 [n, 5], and stars, float32 [n, 1]."""
    with zipfile.ZipFile(files.wheel(data_dir, WHEEL)) as archive:
        ratings = np.array([row[:4] for row in rows(archive, "inter")], int)
        users = {int(row[0]): row for row in rows(archive, "user")}
        films = {int(row[0]): row for row in rows(archive, "item")}
    if size is Size.SMOKE:
        ratings = ratings[:SMOKE]
    jobs = sorted({row[3] for row in users.values()})
    inputs = [
        (user, film, jobs.index(users[user][3]), int(users[user][1]), year)
        for user, film in ratings[:, :2].tolist()
        for year in [since_1900(films[film][2])]
    ]
    x, y = np.array(inputs, "int32"), ratings[:, 2:3].astype("float32")
    late = latest(ratings[:, 0], ratings[:, 3])
    return Data((x[~late], y[~late]), (x[late], y[late]))


def rows(archive: zipfile.ZipFile, ending: str) -> list[list[str]]:
    """Returns a table of the wheel, without its head."""
    lines = io.StringIO(archive.read(f"{FOLDER}.{ending}").decode("utf-8"))
    return list(csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE))[1:]


def since_1900(year: str) -> int:
    """Returns a number for a year; 0 if the table has none."""
    return int(year) - 1900 if year.isdigit() else 0


def latest(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Says of each rating whether it is in its user's latest tenth."""
    late = np.zeros(len(users), bool)
    for user in np.unique(users):
        own = np.flatnonzero(users == user)
        order = own[np.argsort(times[own], kind="stable")]
        late[order[len(own) - -(-len(own) // 10) :]] = True
    return late


def model(data: Data) -> keras.Model:
    """The deep and the wide part, around the mean of all ratings."""
    start = keras.Input([len(SIZES)], dtype="int32")
    embedded = {
        name: layers.Embedding(count, DIMENSIONS)(start[:, at])
        for at, (name, count) in enumerate(SIZES.items())
    }
    pair = layers.multiply([embedded["user"], embedded["film"]])
    x = layers.concatenate([*embedded.values(), pair])
    for width in WIDTHS:
        x = layers.Dropout(0.3)(layers.Dense(width, "relu")(x))
    mean = keras.initializers.Constant(float(data.train[1].mean()))
    deep = layers.Dense(1, bias_initializer=mean)(x)
    return keras.Model(start, layers.add([deep, *wide(start)]), name="films")


def wide(start: Any) -> list[Any]:
    """A weight for each user, film, and pair of occupation and film."""
    films = SIZES["film"]
    both = start[:, 2] * films + start[:, 1]
    features = (
        (start[:, 0], SIZES["user"]),
        (start[:, 1], films),
        (both, SIZES["occupation"] * films),
    )
    return [
        layers.Embedding(count, 1, embeddings_initializer="zeros")(which)
        for which, count in features
    ]


def afterwards(model: keras.Model, data: Data) -> dict[str, Any]:
    """Recall of the films that users liked, in the ten ranked first."""
    (seen, _), (later, stars) = data
    liked = later[stars[:, 0] >= LIKED]
    both = np.concatenate([seen, later])
    films = np.unique(both[:, [1, 4]], axis=0)  # with their years
    found = []
    for user in np.unique(liked[:, 0]):
        wanted = liked[liked[:, 0] == user]
        new = films[~np.isin(films[:, 0], seen[seen[:, 0] == user, 1])]
        who = np.repeat(wanted[:1], len(new), axis=0)
        who[:, [1, 4]] = new
        scores = model.predict_on_batch(padded(who, len(films)))[: len(new), 0]
        first = new[np.argsort(-scores.astype("float32"))[:BEST], 0]
        found.append(np.isin(wanted[:, 1], first).mean())
    return {"recall@10": float(np.mean(found))}


def padded(inputs: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last row, so that one program fits all users."""
    return np.pad(inputs, [(0, count - len(inputs)), (0, 0)], "edge")


EXAMPLE = Example(
    name="recommender",
    field="recommendation",
    says="a wide and deep network on MovieLens 100K",
    data=data,
    model=model,
    optimizer=lambda steps: keras.optimizers.AdamW(
        cosine(1e-3, steps), weight_decay=1e-2
    ),
    loss=keras.losses.MeanSquaredError,
    metric=Metric(
        "RMSE",
        keras.metrics.RootMeanSquaredError,
        unit="stars",
        digits=4,
        higher_is_better=False,
    ),
    epochs=8,
    batch_size=256,
    afterwards=afterwards,
)
