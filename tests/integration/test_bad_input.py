"""Every kind of bad input: set aside or waited for with a reason, while the good stack beside it is queued."""

import os

import numpy as np
import pytest

from streamrecon.io import StackWriter, write_stack
from tests.integration.ingest_helpers import BOX, PIXEL_SIZE, Bench, all_rows, images, put_stack_and_star, star_text
from tests.ledgers import known_sections


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "incoming"
    put_stack_and_star(folder)
    return folder


@pytest.fixture
def bench(root, tmp_path):
    made = Bench(root, tmp_path / "out" / "ledger.sqlite")
    # The first stack sets the session's sampling: let it be the good one.
    made.until(lambda: made.ready() == 5)
    yield made
    made.ledger.close()


def only(entries):
    assert len(entries) == 1, entries
    return entries[0]


def cut(path, n_bytes):
    os.truncate(path, path.stat().st_size - n_bytes)


def test_truncated_stack(root, bench):
    stack, _ = put_stack_and_star(root, "bad.mrcs")
    whole = stack.read_bytes()
    cut(stack, 100)
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "stack_incomplete"
    assert str(stack) in entry.reason
    assert str(len(whole)) in entry.reason
    assert bench.state_of("bad.mrcs") == "quarantined"
    assert bench.metrics.kinds == ["stack_incomplete"]
    assert bench.good_is_queued()
    # And it comes back when it changes.
    stack.write_bytes(whole)
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)
    assert bench.quarantine_of("bad.mrcs") == []
    assert bench.state_of("bad.mrcs") == "ready"


def test_stack_still_growing(root, bench):
    star = root / "bad.star"
    star.write_text(star_text(all_rows("bad.mrcs", 5)))
    with StackWriter(root / "bad.mrcs", 5, (BOX, BOX), PIXEL_SIZE) as writer:
        for image in images(5, seed=7):
            # Longer in all than the orphan time: only standing still counts.
            bench.for_seconds(0.15)
            assert bench.state_of("bad.mrcs") == "settling"
            assert known_sections(bench.ledger, "bad.mrcs") == set()
            writer.append(image[None])
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)
    assert bench.ledger.quarantined() == []
    assert bench.good_is_queued()


def test_stack_whose_header_grows(root, bench):
    (root / "bad.star").write_text(star_text(all_rows("bad.mrcs", 5)))
    with StackWriter(root / "bad.mrcs", 5, (BOX, BOX), PIXEL_SIZE, growing_header=True) as writer:
        for image in images(5, seed=7):
            bench.for_seconds(0.15)
            writer.append(image[None])
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)
    assert bench.ledger.quarantined() == []


def test_oversize_stack(root, bench):
    stack, _ = put_stack_and_star(root, "bad.mrcs")
    with stack.open("ab") as file:
        file.write(bytes(60))
    bench.for_seconds(0.2)
    assert bench.state_of("bad.mrcs") == "settling"
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "stack_incomplete"
    assert "longer" in entry.reason
    assert bench.good_is_queued()


def test_star_cut_mid_row(root, bench):
    _stack, star = put_stack_and_star(root, "bad.mrcs")
    whole = star.read_text()
    star.write_text(whole[: whole.rindex("14800")])
    bench.for_seconds(0.2)
    assert bench.state_of("bad.star") == "settling"
    bench.until(lambda: bench.quarantine_of("bad.star"))
    entry = only(bench.quarantine_of("bad.star"))
    assert entry.kind == "stack_incomplete"
    assert str(star) in entry.reason
    assert bench.good_is_queued()
    star.write_text(whole)
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)
    assert bench.quarantine_of("bad.star") == []


def test_star_cut_at_a_row_end(root, bench):
    _stack, star = put_stack_and_star(root, "bad.mrcs")
    lines = star.read_text().splitlines(keepends=True)
    star.write_text("".join(lines[:-2]))
    bench.until(lambda: known_sections(bench.ledger, "bad.mrcs") == {0, 1, 2})
    assert bench.ledger.quarantined() == []
    star.write_text("".join(lines))
    bench.until(lambda: known_sections(bench.ledger, "bad.mrcs") == {0, 1, 2, 3, 4})
    assert bench.ready() == 10
    assert bench.good_is_queued()


def test_star_cut_within_the_last_number(root, bench):
    _stack, star = put_stack_and_star(root, "bad.mrcs")
    whole = star.read_text()
    star.write_text(whole.rstrip("\n")[:-2])
    bench.until(lambda: known_sections(bench.ledger, "bad.mrcs") == {0, 1, 2, 3})
    star.write_text(whole)
    bench.until(lambda: known_sections(bench.ledger, "bad.mrcs") == {0, 1, 2, 3, 4})
    rows = [row for _, row in bench.ledger.batches.ready_rows(100) if row.stack_name == "bad.mrcs"]
    assert [row.ctf[2] for row in rows] == [30.5] * 5


def test_star_naming_a_missing_stack(root, bench):
    star = root / "bad.star"
    star.write_text(star_text(all_rows("later.mrcs", 5)))
    bench.until(lambda: bench.state_of("later.mrcs") == "orphan")
    record = only(bench.ledger.stacks("orphan"))
    assert str(star) in record.reason
    assert bench.metrics.orphan_count == 1
    assert bench.metrics.kinds == []
    assert bench.good_is_queued()
    write_stack(root / "later.mrcs", images(5, seed=7), PIXEL_SIZE)
    bench.until(lambda: len(known_sections(bench.ledger, "later.mrcs")) == 5)
    assert bench.ledger.stacks("orphan") == []


def test_missing_stack_that_comes_elsewhere(root, bench):
    """RELION names stacks from its project folder; before the stack exists nobody can know which that is."""
    (root / "job").mkdir()
    (root / "job" / "bad.star").write_text(star_text(all_rows("stacks/later.mrcs", 5)))
    bench.until(lambda: bench.state_of("job/stacks/later.mrcs") == "seen")
    (root / "stacks").mkdir()
    write_stack(root / "stacks" / "later.mrcs", images(5, seed=7), PIXEL_SIZE)
    bench.until(lambda: len(known_sections(bench.ledger, "stacks/later.mrcs")) == 5)
    assert bench.state_of("job/stacks/later.mrcs") is None


def test_stack_without_star(root, bench):
    write_stack(root / "alone.mrcs", images(5, seed=7), PIXEL_SIZE)
    write_stack(root / "micrograph.mrc", images(1, seed=7), PIXEL_SIZE)
    bench.until(lambda: bench.state_of("alone.mrcs") == "orphan")
    assert bench.state_of("micrograph.mrc") is None
    assert bench.good_is_queued()
    (root / "alone.star").write_text(star_text(all_rows("alone.mrcs", 5)))
    bench.until(lambda: len(known_sections(bench.ledger, "alone.mrcs")) == 5)


def test_index_past_the_end(root, bench):
    stack, star = put_stack_and_star(root, "bad.mrcs")
    star.write_text(star_text(all_rows("bad.mrcs", 7)))
    bench.until(lambda: known_sections(bench.ledger, "bad.mrcs") == {0, 1, 2, 3, 4})
    assert bench.ledger.quarantined() == []
    bench.until(lambda: len(bench.quarantine_of("bad.mrcs")) == 2)
    entries = bench.quarantine_of("bad.mrcs")
    assert [e.identity for e in entries] == ["000006@bad.mrcs", "000007@bad.mrcs"]
    assert {e.kind for e in entries} == {"manifest_mismatch"}
    assert str(stack) in entries[0].reason
    assert str(star) in entries[0].reason
    assert bench.ready() == 10
    assert bench.metrics.kinds == ["manifest_mismatch"] * 2
    assert bench.good_is_queued()
    # Should it grow after all, they are taken.
    write_stack(stack, images(7, seed=7), PIXEL_SIZE)
    bench.until(lambda: bench.ready() == 2)
    assert bench.ledger.quarantined() == []


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (3.0, "same value")], ids=["nan", "constant"])
def test_nan_and_constant_images(root, bench, value, said):
    pixels = images(5, seed=7)
    pixels[2] = value
    put_stack_and_star(root, "bad.mrcs")
    write_stack(root / "bad.mrcs", pixels, PIXEL_SIZE)
    bench.until(lambda: bench.ready() == 9)
    entry = only(bench.ledger.quarantined())
    assert (entry.identity, entry.kind) == ("000003@bad.mrcs", "stack_corrupt")
    assert said in entry.reason
    assert "section 3" in entry.reason
    assert bench.good_is_queued()
    # A corrected stack gives the particle back.
    write_stack(root / "bad.mrcs", images(5, seed=1), PIXEL_SIZE)
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5 and bench.ready() == 1)
    assert bench.ledger.quarantined() == []


def test_wrong_box(root, bench):
    stack, _ = put_stack_and_star(root, "bad.mrcs", box=10)
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "manifest_mismatch"
    assert str(stack) in entry.reason
    assert str(root / "good.mrcs") in entry.reason
    assert bench.good_is_queued()


def test_box_other_than_its_star_says(root, bench):
    stack, star = put_stack_and_star(root, "bad.mrcs", box=10)
    star.write_text(star_text(all_rows("bad.mrcs", 5)))
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "manifest_mismatch"
    assert str(stack) in entry.reason
    assert str(star) in entry.reason


def test_mixed_pixel_size(root, bench):
    _stack, star = put_stack_and_star(root, "bad.mrcs", pixel_size=3.5)
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "manifest_mismatch"
    assert str(root / "good.mrcs") in entry.reason
    assert bench.good_is_queued()
    # The STAR was wrong, not the stack: a corrected one is enough.
    star.write_text(star_text(all_rows("bad.mrcs", 5)))
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)
    assert bench.ledger.quarantined() == []


def test_unknown_mode(root, bench):
    stack, _ = put_stack_and_star(root, "bad.mrcs")
    raw = bytearray(stack.read_bytes())
    raw[12:16] = (77).to_bytes(4, "little")
    stack.write_bytes(raw)
    bench.until(lambda: bench.quarantine_of("bad.mrcs"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "unsupported_format"
    assert "77" in entry.reason
    assert bench.good_is_queued()


def test_empty_file(root, bench):
    stack, _ = put_stack_and_star(root, "bad.mrcs")
    stack.write_bytes(b"")
    (root / "nothing.star").write_bytes(b"")
    bench.until(lambda: bench.quarantine_of("bad.mrcs") and bench.quarantine_of("nothing.star"))
    assert only(bench.quarantine_of("bad.mrcs")).kind == "stack_incomplete"
    assert only(bench.quarantine_of("nothing.star")).kind == "stack_incomplete"
    assert bench.good_is_queued()


def test_directory_named_like_a_stack(root, bench):
    (root / "bad.mrcs").mkdir()
    (root / "bad.star").write_text(star_text(all_rows("bad.mrcs", 5)))
    (root / "folder.star").mkdir()
    bench.until(lambda: bench.quarantine_of("bad.mrcs") and bench.quarantine_of("folder.star"))
    entry = only(bench.quarantine_of("bad.mrcs"))
    assert entry.kind == "stack_corrupt"
    assert "folder" in entry.reason
    assert only(bench.quarantine_of("folder.star")).kind == "unsupported_format"
    assert bench.good_is_queued()


@pytest.mark.timeout(60)  # an open that waits for who writes into the pipe cannot be ended by a signal
def test_pipes_and_devices_with_the_names_of_manifests_hold_nothing_up(root, bench):
    os.mkfifo(root / "pipe.star")
    os.mkfifo(root / "pipe.cs")
    (root / "endless.star").symlink_to("/dev/zero")
    names = ("pipe.star", "pipe.cs", "endless.star")
    bench.until(lambda: all(bench.quarantine_of(name) for name in names))
    for name in names:
        assert only(bench.quarantine_of(name)).kind == "unsupported_format"
    assert bench.good_is_queued()


def test_non_ascii_path(root, bench):
    put_stack_and_star(root, "Gitter_Ä/Größe_µ.mrcs")
    bench.until(lambda: len(known_sections(bench.ledger, "Gitter_Ä/Größe_µ.mrcs")) == 5)
    assert bench.ledger.quarantined() == []
    assert bench.good_is_queued()


def test_path_that_is_not_utf8(root, bench):
    name = os.fsdecode(b"caf\xe9.mrcs")
    write_stack(root / name, images(5, seed=7), PIXEL_SIZE)
    text = star_text(all_rows("cafe.mrcs", 5)).encode().replace(b"cafe", b"caf\xe9")
    (root / "bad.star").write_bytes(text)
    bench.until(lambda: len(bench.ledger.quarantined()) == 1)
    entry = only(bench.ledger.quarantined())
    assert entry.kind == "unsupported_format"
    assert "caf\\xe9" in entry.path
    assert bench.good_is_queued()


def test_blank_holding_path(root, bench):
    put_stack_and_star(root, "grid 1/my stack.mrcs")
    bench.until(lambda: len(known_sections(bench.ledger, "grid 1/my stack.mrcs")) == 5)
    assert bench.ledger.quarantined() == []
    assert bench.good_is_queued()


def test_file_that_vanishes_between_scan_and_open(root, bench, monkeypatch):
    stack, _star = put_stack_and_star(root, "bad.mrcs")
    from streamrecon.ingest import take_stacks

    probe, probed = take_stacks.probe_stack, []

    def vanish_then_probe(path):
        if path == stack and not probed:
            probed.append(path)
            stack.unlink()
        return probe(path)

    monkeypatch.setattr(take_stacks, "probe_stack", vanish_then_probe)
    bench.until(lambda: bench.state_of("bad.mrcs") == "orphan")
    assert probed == [stack]
    assert "no such stack" in only(bench.ledger.stacks("orphan")).reason
    assert bench.ledger.quarantined() == []
    assert bench.good_is_queued()
    write_stack(stack, images(5, seed=7), PIXEL_SIZE)
    bench.until(lambda: len(known_sections(bench.ledger, "bad.mrcs")) == 5)


def test_reader_that_fails_in_an_unforeseen_way(root, bench, monkeypatch):
    from streamrecon.ingest import read_manifests

    read = read_manifests.read_manifest

    def fail(path, where):
        if path.name == "bad.star":
            raise RuntimeError("boom")
        return read(path, where)

    monkeypatch.setattr(read_manifests, "read_manifest", fail)
    put_stack_and_star(root, "bad.mrcs")
    bench.until(lambda: bench.quarantine_of("bad.star"))
    entry = only(bench.quarantine_of("bad.star"))
    assert entry.kind == "ingest_error"
    assert "boom" in entry.reason
    assert bench.good_is_queued()


def test_particles_without_ctf(root, bench):
    _, star = put_stack_and_star(root, "bad.mrcs")
    lines = star.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("_rlnDefocus")]
    star.write_text("\n".join(" ".join(w.split()[:3]) if "@" in w else w for w in kept) + "\n")
    bench.until(lambda: len(bench.quarantine_of("bad.mrcs")) == 5)
    assert {e.kind for e in bench.quarantine_of("bad.mrcs")} == {"manifest_mismatch"}
    assert "input.ctf" in bench.quarantine_of("bad.mrcs")[0].reason
    assert bench.good_is_queued()


def test_same_particles_in_a_joined_star_are_queued_once(root, bench):
    put_stack_and_star(root, "a.mrcs")
    put_stack_and_star(root, "b.mrcs", seed=2)
    joined = root / "joined.star"
    joined.write_text(star_text(all_rows("a.mrcs", 5)))
    bench.until(lambda: bench.ready() == 15)
    write_stack(root / "c.mrcs", images(5, seed=3), PIXEL_SIZE)
    joined.write_text(star_text([*all_rows("a.mrcs", 5), *all_rows("b.mrcs", 5), *all_rows("c.mrcs", 5)]))
    bench.until(lambda: bench.ready() == 20)
    bench.for_seconds(0.2)
    assert bench.ready() == 20


def test_joined_star_that_never_stands_still(root, bench):
    """It is read all the same after a while, but for its last row."""
    write_stack(root / "j.mrcs", images(200, seed=7), PIXEL_SIZE)
    joined = root / "joined.star"
    joined.write_text(star_text([]))
    n = 0
    while not known_sections(bench.ledger, "j.mrcs"):
        n += 1
        assert n < 200
        with joined.open("a") as file:
            file.write(f"{n:06d}@j.mrcs mic.mrc 1 15000.5 14800.25 30.5\n")
        bench.for_seconds(0.03)
    bench.until(lambda: known_sections(bench.ledger, "j.mrcs") == set(range(n)))
