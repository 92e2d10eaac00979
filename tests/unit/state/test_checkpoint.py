import json
import math
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from structlog.testing import capture_logs

from streamrecon.errors import CheckpointCorrupt, CheckpointIncompatible, StateError
from streamrecon.reconstruct.results import EngineState
from streamrecon.state import background
from streamrecon.state.background import AsyncCheckpointer
from streamrecon.state.checkpoint import CheckpointStore
from streamrecon.state.compatibility import check_compatible


def make_state(value=1.0):
    rng = np.random.default_rng(0)
    return EngineState(
        arrays={
            "half/a numerator": (rng.normal(size=(3, 4, 5)) + 1j * value).astype(np.complex64),
            "weight": np.asfortranarray(np.full((2, 3), value, np.float32)),
            "empty": np.zeros((0, 3), np.int32),
            "nothing": np.array(value),
        },
        scalars={
            "step": 3,
            "stage": "searching",
            "settled": False,
            "resolution_angstrom": math.inf,
            "random_state": 2**127 + 1,
            "third": 1 / 3,
            "single": np.float32(0.1),
        },
    )


def assert_equal(found, expected):
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array, strict=True)
    assert dict(found.scalars) == dict(expected.scalars)


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=3)


def test_a_checkpoint_comes_back_exactly(store):
    saved = store.save(make_state(), {"folded_through": 7, "poses": {"bytes": 1234}})
    loaded = store.load_latest()
    assert_equal(loaded.state, make_state())
    assert loaded.extra == {"folded_through": 7, "poses": {"bytes": 1234}}
    assert loaded.number == saved.number == 1
    assert saved.bytes == sum(p.stat().st_size for p in saved.path.iterdir())


def test_nothing_there_is_no_error(store):
    assert store.load_latest() is None


def test_the_last_n_are_kept_and_the_newest_is_loaded(store):
    for i in range(5):
        store.save(make_state(float(i)), {"i": i})
    assert sorted(p.name for p in store.folder.iterdir()) == [
        "CURRENT",
        *(f"checkpoint-{n:06d}" for n in (3, 4, 5)),
    ]
    assert store.load_latest().extra == {"i": 4}


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


DAMAGE = {
    "array altered": lambda folder: flip_byte(next(folder.glob("000-*.npy"))),
    "array cut": lambda folder: cut(next(folder.glob("001-*.npy"))),
    "array longer": lambda folder: next(folder.glob("001-*.npy")).open("ab").write(b"x"),
    "array missing": lambda folder: next(folder.glob("000-*.npy")).unlink(),
    "manifest altered": lambda folder: flip_byte(folder / "manifest.json"),
    "manifest cut": lambda folder: cut(folder / "manifest.json"),
    "manifest empty": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(store, damage):
    store.save(make_state(1.0), {"i": 1})
    newest = store.save(make_state(2.0), {"i": 2}).path
    damage(newest)
    loaded = store.load_latest()
    assert loaded.extra == {"i": 1}
    assert_equal(loaded.state, make_state(1.0))
    assert (store.folder / "corrupt-000002").is_dir()
    assert store.save(make_state(3.0), {"i": 3}).path.is_dir()
    assert store.load_latest().extra == {"i": 3}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_when_none_is_left_it_does_not_start_over_silently(store, damage):
    damage(store.save(make_state(), {}).path)
    with pytest.raises(CheckpointCorrupt, match=r"none of 1 checkpoints.*session\.output_dir"):
        store.load_latest()


def test_bytes_swapped_between_checkpoints_are_found(store):
    """Same size, valid .npy, wrong content."""
    first = store.save(make_state(1.0), {"i": 1}).path
    second = store.save(make_state(2.0), {"i": 2}).path
    shutil.copy(next(first.glob("001-*")), next(second.glob("001-*")))
    assert store.load_latest().extra == {"i": 1}


def test_a_torn_save_leaves_the_one_before(store, monkeypatch):
    store.save(make_state(1.0), {"i": 1})
    real = os.fsync
    calls = []

    def power_cut(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(StateError, match=r"No space left.*free space"):
        store.save(make_state(2.0), {"i": 2})
    monkeypatch.undo()
    assert store.load_latest().extra == {"i": 1}
    store.save(make_state(3.0), {"i": 3})
    assert not list(store.folder.glob(".writing-*"))
    assert store.load_latest().extra == {"i": 3}


def test_one_that_never_became_current_is_put_by_and_pruned_as_the_others_are(store):
    store.save(make_state(1.0), {"i": 1})
    pointer = (store.folder / "CURRENT").read_bytes()
    store.save(make_state(2.0), {"i": 2})
    (store.folder / "CURRENT").write_bytes(pointer)
    for _ in range(2):
        assert store.load_latest().extra == {"i": 1}
        assert names(store, "*-0*") == ["checkpoint-000001", "unused-000002"]
    for i in (3, 4, 5):
        store.save(make_state(), {"i": i})
        assert (store.folder / "unused-000002").exists() == (i < 5)
    assert names(store, "*-0*") == [f"checkpoint-{n:06d}" for n in (2, 3, 4)]
    assert store.load_latest().extra == {"i": 5}


def test_where_one_is_put_by_twice_the_later_stays(store):
    store.save(make_state(), {"i": 1})
    pointer = (store.folder / "CURRENT").read_bytes()
    for i in (2, 3):
        store.save(make_state(), {"i": i})
        (store.folder / "CURRENT").write_bytes(pointer)
        assert store.load_latest().extra == {"i": 1}
    assert names(store, "*-0*") == ["checkpoint-000001", "unused-000002"]
    assert b'"i":3' in (store.folder / "unused-000002" / "manifest.json").read_bytes()


def names(store, pattern):
    return sorted(path.name for path in store.folder.glob(pattern))


@pytest.fixture
def three(store):
    for i in (1, 2, 3):
        store.save(make_state(), {"i": i})
    return store


def test_no_bit_of_current_costs_a_checkpoint(three):
    pointer = three.folder / "CURRENT"
    good, there = pointer.read_bytes(), names(three, "*")
    for at in range(8 * len(good)):
        altered = bytearray(good)
        altered[at // 8] ^= 1 << at % 8
        pointer.write_bytes(altered)
        with capture_logs() as logs:
            assert three.load_latest().extra == {"i": 3}
        assert [(log["log_level"], str(pointer) in log["reason"]) for log in logs] == [("warning", True)]
        assert names(three, "*") == there
        assert three.current_age(0.0) is None
    pointer.write_bytes(good)
    assert three.current_age(0.0)[0] == 3


@pytest.mark.parametrize("found", [b"", b"checkpoint-00", b"checkpoint-000002 blake2b:", b"\xff" * 10])
def test_where_current_does_not_hold_the_newest_whole_checkpoint_is_used(three, found):
    (three.folder / "CURRENT").write_bytes(found)
    flip_byte(three.folder / "checkpoint-000003" / "manifest.json")
    assert three.load_latest().extra == {"i": 2}
    assert names(three, "*-0*") == ["checkpoint-000001", "checkpoint-000002", "corrupt-000003"]


@pytest.mark.parametrize("lost", ["CURRENT", "checkpoint-000003"])
def test_current_or_what_it_names_may_be_gone(three, lost):
    path = three.folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert three.load_latest().extra == {"i": 3 if lost == "CURRENT" else 2}
    assert len(names(three, "checkpoint-*")) == (3 if lost == "CURRENT" else 2)


def test_current_as_earlier_releases_wrote_it_is_read(three):
    """Without a hash."""
    (three.folder / "CURRENT").write_bytes(b"checkpoint-000002\n")
    assert three.load_latest().extra == {"i": 2}
    assert names(three, "*-0*") == ["checkpoint-000001", "checkpoint-000002", "unused-000003"]


def test_objects_are_not_saved_and_not_read(store):
    with pytest.raises(StateError, match="Python objects"):
        store.save(EngineState({"bad": np.array([{}], object)}, {}), {})
    with pytest.raises(StateError, match="cannot be written"):
        store.save(make_state(), {"bad": object()})
    assert store.load_latest() is None


def test_a_manifest_that_names_a_file_elsewhere_is_refused(store, tmp_path):
    folder = store.save(make_state(), {}).path
    from streamrecon.state import manifest as manifests

    good = manifests.read(folder)
    text = manifests.encode(good).replace(b"000-half_a_numerator.npy", b"../outside.npy")
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(CheckpointCorrupt):
        store.load_latest()


def test_another_schema_version_is_incompatible_not_corrupt(store):
    import hashlib

    folder = store.save(make_state(), {}).path
    body = json.loads((folder / "manifest.json").read_bytes())["manifest"]
    body["schema_version"] = 99
    text = json.dumps(body).encode()
    seal = hashlib.blake2b(text, digest_size=32).hexdigest().encode()
    (folder / "manifest.json").write_bytes(b'{"blake2b":"' + seal + b'","manifest":' + text + b"}")
    with pytest.raises(CheckpointIncompatible, match="found 99"):
        store.load_latest()


def test_incompatible_configuration_is_named_key_by_key():
    saved = {"engine": {"samples": 48, "rounds": 2}, "shape": [1, 2], "gone": 1}
    check_compatible(saved, {"engine": {"rounds": 2, "samples": 48}, "shape": (1, 2), "gone": 1})
    with pytest.raises(CheckpointIncompatible) as caught:
        check_compatible(saved, {"engine": {"samples": 64, "rounds": 2}, "shape": (1, 2), "new": None})
    message = str(caught.value)
    assert "engine.samples: the checkpoint has 48, the configuration 64" in message
    assert "gone: the checkpoint has 1, the configuration '(not set)'" in message
    assert "new: the checkpoint has '(not set)', the configuration None" in message
    assert "rounds" not in message
    assert "shape" not in message


def test_background_hands_back_the_token_only_when_durable(store, monkeypatch):
    go = threading.Event()
    checkpointer = AsyncCheckpointer[list](store, before=lambda: go.wait(90) and None)
    checkpointer.submit(make_state(), {"i": 1}, [4, 5])
    assert checkpointer.busy
    assert checkpointer.poll() is None
    assert store.load_latest() is None
    with pytest.raises(RuntimeError, match="still under way"):
        checkpointer.submit(make_state(), {}, [])
    go.set()
    saved, token = checkpointer.poll(None)
    assert token == [4, 5]
    assert saved.path.is_dir()
    assert not checkpointer.busy
    assert checkpointer.poll(None) is None
    checkpointer.close()


def test_what_is_made_durable_before_counts_as_the_checkpoints_time(store, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(background, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    checkpointer = AsyncCheckpointer[int](store, before=lambda: clock.append(clock.pop() + 5.0))
    checkpointer.submit(make_state(), {}, 1)
    saved, _ = checkpointer.poll(None)
    assert saved.seconds == 5.0
    checkpointer.close()


def test_background_failure_is_raised_once_and_the_next_one_may_succeed(store):
    checkpointer = AsyncCheckpointer[int](store)
    checkpointer.submit(make_state(), {"bad": object()}, 1)
    with pytest.raises(StateError):
        checkpointer.poll(None)
    checkpointer.submit(make_state(), {}, 2)
    assert checkpointer.poll(None)[1] == 2
    checkpointer.close()
