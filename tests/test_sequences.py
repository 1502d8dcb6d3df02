"""Windows of sequences: every position scored once with its context, states carried on, batches resumed."""

import itertools
import re

import numpy as np
import pytest

from arjax.data import Dataset, Sequences, Windows, batches, epoch_batches

RNG = np.random.default_rng(0)


def sequences(hop=1, labelled=True, featured=False, **change):
    """Position ``i`` of all has the value ``i + 1``: its identity."""
    lengths = np.array([7, 1, 12, 4, 30])
    frames = -(-lengths // max(hop, 1))
    settings = {"x": np.arange(lengths.sum()) + 1, "lengths": lengths, "levels": 1000, "hop": hop}
    settings |= {"labels": np.arange(len(lengths))} if labelled else {}
    # a frame holds the value of its first position, and its own number
    starts = np.cumsum(lengths) - lengths
    first = np.concatenate([start + 1 + hop * np.arange(n) for start, n in zip(starts, frames, strict=True)])
    settings |= {"features": np.stack([first, np.arange(len(first))], 1)} if featured else {}
    return Sequences(**settings | change)


def one_line(error):
    return "\n" not in str(error.value)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# --- sequences ---


@pytest.mark.parametrize(
    ("levels", "dtype"),
    [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16), (65_537, np.int32)],
)
def test_sequences_are_held_small(levels, dtype):
    data = Sequences(RNG.integers(0, 2, 10), np.array([4, 6]), levels)
    assert (len(data), data.x.dtype, data.sequence(1).dtype) == (2, dtype, np.int32)
    assert (data.labels, data.num_classes, data.features) == (None, None, None)
    with pytest.raises(ValueError, match=re.escape("sequences (train) has no features")):
        data.frames(0)


def test_sequence_take_head():
    data = sequences(hop=4, featured=True)
    for part, index in (
        (data, range(5)),
        (data.take(np.array([4, 1])), [4, 1]),
        (data.take(slice(2, None)), [2, 3, 4]),
    ):
        assert part.labels.tolist() == list(index)
        for i, whole in enumerate(index):
            np.testing.assert_array_equal(part.sequence(i), data.sequence(whole))
            np.testing.assert_array_equal(part.frames(i), data.frames(whole))
    np.testing.assert_array_equal(data.sequence(2), np.arange(9, 21))
    assert data.frames(2)[:, 0].tolist() == [9, 13, 17]
    assert data.sequence(-1).tolist() == data.sequence(4).tolist()
    for n in (1, 7, 8, 9, 13, 53, 54, 100):
        head = data.head(n)
        np.testing.assert_array_equal(head.x, data.x[:n])
        assert len(head) == len(head.labels) == (data.starts < n).sum()
        np.testing.assert_array_equal(head.frames(-1), data.frames(len(head) - 1)[: -(-head.lengths[-1] // 4)])
    assert data.head(9).num_classes == 5


def test_tuples_of_labels():
    labels = (np.array([0, 1, 2]), np.array([1, 0, 1]))
    data = Sequences(np.zeros(9, int), np.array([2, 3, 4]), 2, labels, (10, None))
    assert data.num_classes == (10, 2)
    assert [label.tolist() for label in data.take(slice(1, None)).labels] == [[1, 2], [0, 1]]
    assert data.take(slice(1)).num_classes == (10, 2)
    batch = Windows(data, 2).batch(np.array([0, 4]))
    assert [label.tolist() for label in batch["label"]] == [[0, 2], [1, 1]]
    assert [label.tolist() for label in Windows(data, 2).labels] == [[0, 1, 1, 2, 2], [1, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros(54)}, "dtype float64, wanted integers"),
        ({"x": np.full(54, 1000)}, "values 1000..1000, wanted 0..levels-1 = 999"),
        ({"x": np.zeros((54, 1), int)}, "shape (54, 1), wanted (n,)"),
        ({"x": np.zeros(0, int)}, "at least one position"),
        ({"x": np.zeros(53, int)}, "lengths add up to 54, wanted the 53 positions"),
        ({"lengths": np.array([54, 0])}, "wanted positive integers"),
        ({"lengths": np.array([54.0])}, "float64 (1,), wanted positive integers (s,)"),
        ({"labels": np.zeros(4, int)}, "labels of shape (4,) do not fit 5 examples"),
        ({"labels": np.arange(5), "num_classes": 4}, "values 0..4, wanted 0..num_classes-1 = 3"),
        ({"labels": (np.arange(5),), "num_classes": 5}, "num_classes is 5, wanted a tuple of 1"),
        ({"labels": (np.arange(5), np.zeros(4, int))}, "labels of shape (4,)"),
        ({"features": np.zeros((53, 2))}, "features have shape (53, 2), wanted (54, d)"),
        ({"features": np.zeros((54, 2)), "hop": 4}, "wanted (15, d)"),
        ({"features": np.full((15, 2), np.nan, np.float32), "hop": 4}, "features are not finite"),
        ({"features": np.zeros(54)}, "features have shape (54,)"),
        ({"hop": 0}, "hop is 0, wanted 1 or more"),
        ({"split": "eval"}, "unknown split 'eval'"),
    ],
)
def test_sequences_refuse(change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        sequences(name="mine", **change)
    assert one_line(error)
    assert "mine" in str(error.value)


# --- windows ---


@pytest.mark.parametrize(("length", "context"), [(5, 0), (5, 3), (3, 7), (4, 4), (100, 2), (1, 1)])
def test_every_position_is_scored_once_with_its_context(length, context):
    data = sequences()
    windows = Windows(data, length, context)
    assert windows.event == (context + length,)
    assert (windows.levels, windows.name, windows.split, windows.num_classes) == (1000, "sequences", "train", 5)
    assert len(windows) == sum(-(-n // length) for n in data.lengths)
    scored = []
    for batch in epoch_batches(windows, 4):
        assert batch["x"].dtype == batch["label"].dtype == np.int32
        assert batch["scored"].dtype == bool
        for x, mask, label in zip(batch["x"], batch["scored"], batch["label"], strict=True):
            whole = data.sequence(label)
            first = whole.tolist().index(x[0])
            np.testing.assert_array_equal(x, np.pad(whole, (0, windows.event[0]))[first : first + len(x)])
            where = np.flatnonzero(mask)
            assert where.tolist() == list(range(where[0], where[-1] + 1))
            assert where[0] == context or first == 0
            assert (first + where[0]) % length == 0
            scored += x[mask].tolist()
    assert scored == data.x.tolist()


def test_features_are_aligned():
    windows = Windows(sequences(hop=4, featured=True), 8, 4)
    for batch in epoch_batches(windows, 3):
        assert batch["features"].shape[1:] == (3, 2)
        assert batch["features"].dtype == np.float32
        np.testing.assert_array_equal(batch["features"][..., 0], batch["x"][:, ::4])


def test_take_and_labels_of_windows():
    windows = Windows(sequences(), 5, 2)
    part = windows.take(slice(2, 9)).take(np.array([3, 0]))
    assert len(part) == 2
    np.testing.assert_array_equal(part.labels, windows.labels[[5, 2]])
    assert same(part.batch(slice(None)), windows.batch(np.array([5, 2])))
    assert Windows(sequences(labelled=False), 5).labels is None


def test_windows_are_a_function_of_seed_and_step():
    windows = Windows(sequences(hop=2, featured=True), 4, 2)
    count = len(windows) // 3
    run = list(itertools.islice(batches(windows, 3, seed=1), 3 * count))
    for epoch in range(3):
        scored = np.concatenate([b["x"][b["scored"]] for b in run[epoch * count : (epoch + 1) * count]])
        assert len(set(scored.tolist())) == len(scored) > 45
    for step in range(len(run)):
        assert same(next(batches(windows, 3, seed=1, step=step)), run[step])
    assert not same(run[0], run[count])
    assert not same(run[0], next(batches(windows, 3, seed=2)))


# --- states carried on ---


@pytest.mark.parametrize(("length", "batch_size"), [(5, 3), (4, 1), (1, 7), (9, 6), (54, 1)])
def test_rows_go_on_from_batch_to_batch(length, batch_size):
    windows = Windows(sequences(labelled=False), length, carry=True)
    count = 54 // (length * batch_size)
    run = list(itertools.islice(batches(windows, batch_size, seed=0), 2 * count))
    assert all(same(a, b) for a, b in zip(run[:count], run[count:], strict=True))
    assert [bool(batch["fresh"]) for batch in run] == 2 * ([True] + [False] * (count - 1))
    rows = np.concatenate([batch["x"] for batch in run[:count]], axis=1)
    np.testing.assert_array_equal(rows.ravel(), np.arange(count * length * batch_size) + 1)
    before = np.concatenate([batch["before"] for batch in run[:count]], axis=1)
    np.testing.assert_array_equal(before[:, 0], -1)
    np.testing.assert_array_equal(before[:, 1:], rows[:, length - 1 : -1 : length])
    assert all(batch["scored"].all() for batch in run)
    assert run[0]["fresh"].shape == ()
    assert run[0]["before"].shape == (batch_size, 1)
    assert run[0]["before"].dtype == run[0]["x"].dtype == np.int32
    for step in range(len(run)):
        assert same(next(batches(windows, batch_size, seed=5, step=step)), run[step])


@pytest.mark.parametrize(("length", "batch_size"), [(5, 3), (4, 1), (1, 7), (9, 6), (100, 4), (3, 50), (2, 60)])
def test_carried_evaluation_covers_everything(length, batch_size):
    windows = Windows(sequences(labelled=False), length, carry=True)
    run = list(epoch_batches(windows, batch_size))
    assert all(batch["x"].shape == batch["scored"].shape == (batch_size, length) for batch in run)
    rows, scored = (np.concatenate([batch[key] for batch in run], axis=1) for key in ("x", "scored"))
    np.testing.assert_array_equal(rows[scored], np.arange(54) + 1)
    assert not rows[~scored].any()
    assert [bool(batch["fresh"]) for batch in run] == [True] + [False] * (len(run) - 1)
    for last, batch in itertools.pairwise(run):
        inside = batch["scored"][:, 0]
        np.testing.assert_array_equal(batch["before"][inside, 0], last["x"][inside, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "got length 0 and context 0"),
        ({"context": -4}, "got length 8 and context -4"),
        ({"length": 6}, "got length 6 and context 0, wanted multiples of the hop, 4"),
        ({"context": 6}, "wanted multiples of the hop, 4"),
        ({"carry": True}, "got labels together with carry=True"),
        ({"carry": True, "context": 4}, "got context together"),
        ({"carry": True, "sequences": sequences(labelled=False, featured=True)}, "got features together"),
        (
            {"carry": True, "kept": np.arange(3), "sequences": sequences(labelled=False)},
            "got a selection of windows",
        ),
    ],
)
def test_windows_refuse(change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Windows(**{"sequences": sequences(hop=4), "length": 8} | change)
    assert one_line(error)
    assert "sequences (train)" in str(error.value)


def test_too_few_windows():
    windows = Windows(sequences(labelled=False), 10, carry=True)
    with pytest.raises(ValueError, match="batch size 6 does not fit the 5 examples of sequences"):
        batches(windows, 6, seed=0)
    with pytest.raises(ValueError, match="selection of windows together with carry"):
        windows.take(slice(2))


def test_images_still_have_slices_and_permutations():
    data = Dataset(np.arange(22).reshape(11, 2))
    assert data.plan(4) == [slice(0, 4), slice(4, 8), slice(8, 12)]
    order = np.random.default_rng((3, 0)).permutation(11)
    np.testing.assert_array_equal(np.stack(data.plan(4, np.random.default_rng((3, 0)))), order[:8].reshape(2, 4))
