"""A finished session appears again: order, times, growing joined STAR files, stops in between."""

import os
import shutil

import numpy as np
import pytest

from streamrecon.errors import ConfigError
from streamrecon.io import read_manifest, read_star
from streamrecon.simulate import Microscope, MicroscopeSettings, SessionWriter
from streamrecon.simulate.replay import SessionReplayer, part_of_star
from streamrecon.simulate.replay_plan import plan_session

START = 1_700_000_000
EACH = 4
N_STACKS = 7
JOINED = "Extract/job007/particles.star"


def stack(i):
    return f"Extract/job007/Micrographs/mic_{i:05d}.mrcs"


def star(i):
    return f"Extract/job007/Micrographs/mic_{i:05d}_extract.star"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Seven stacks, ten seconds apart, each followed by its STAR file; the joined one at the end."""
    folder = tmp_path_factory.mktemp("session") / "archive"
    z, y, x = np.mgrid[:16, :16, :16] - 8
    microscope = Microscope(
        np.exp(-(x**2 / 9 + y**2 / 4 + z**2 / 2)), MicroscopeSettings(particles_per_micrograph=EACH, seed=1)
    )
    SessionWriter(microscope, folder, folder.parent / "truth").run(EACH * N_STACKS - 1)
    for i in range(1, N_STACKS + 1):
        os.utime(folder / stack(i), (0, START + 10 * i))
        os.utime(folder / star(i), (0, START + 10 * i + 1))
    os.utime(folder / JOINED, (0, START + 100))
    return folder


@pytest.fixture
def archive(written, tmp_path):
    return shutil.copytree(written, tmp_path / "archive")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def play(plan, target, **options):
    """Replay; return (time, path, particles in it if it is the joined file) of each arrival."""
    clock = Clock()
    log = []

    def note(arrival):
        path = target / arrival.path
        rows = len(read_star(path)) if str(arrival.path) == JOINED else None
        log.append((round(clock.now, 6), str(arrival.path), rows))

    SessionReplayer(plan, target, sleep=clock.sleep, clock=clock, **options).run(note)
    return log


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_appears_at_its_time_and_in_the_order_of_the_program(archive, tmp_path):
    plan = plan_session(archive, join_every_stacks=3)
    assert (plan.n_particles, plan.seconds, plan.unread, plan.missing) == (27, 90.0, {}, [])
    log = play(plan, tmp_path / "in")
    expected = [(10.0 * (i - 1), stack(i), None) for i in range(1, 8)]
    expected += [(10.0 * (i - 1) + 1, star(i), None) for i in range(1, 8)]
    expected += [(20.0, JOINED, 12), (50.0, JOINED, 24), (90.0, JOINED, 27)]
    assert sorted(log, key=lambda e: (e[0], e[1])) == sorted(expected, key=lambda e: (e[0], e[1]))
    assert contents(tmp_path / "in") == contents(archive)


def test_a_part_holds_only_stacks_that_have_come_and_reads_like_the_whole(archive, tmp_path):
    target = tmp_path / "in"

    def look(arrival):
        if arrival.kind != "stack":
            table = read_manifest(target / arrival.path, target)
            assert all(os.path.exists(name) for name in table.stack_names)  # noqa: PTH110

    SessionReplayer(plan_session(archive, join_every_stacks=1), target, speed=float("inf")).run(look)
    whole = read_star(archive / JOINED)
    text = part_of_star(archive / JOINED, {archive / stack(2), archive / stack(7)}, archive)
    (tmp_path / "part.star").write_bytes(text)
    part = read_star(tmp_path / "part.star")
    rows = [i for i, s in enumerate(whole.stack_number) if whole.stack_names[s] in (stack(2), stack(7))]
    assert part.identities() == [whole.identities()[i] for i in rows]
    np.testing.assert_array_equal(part.defocus_u_angstrom, whole.defocus_u_angstrom[rows])
    assert part.optics_groups == whole.optics_groups


def test_speed_and_longest_gap(archive, tmp_path):
    os.utime(archive / JOINED, (0, START + 5000))
    plan = plan_session(archive, join_every_stacks=100)
    replayer = SessionReplayer(plan, tmp_path / "other", speed=2.0, max_gap_seconds=8.0)
    # six pauses of 9 s cut to 8, seven of 1 s, the last one cut to 8
    assert replayer.seconds == pytest.approx((6 * 8 + 7 * 1 + 8) / 2)
    assert play(plan, tmp_path / "in", speed=2.0, max_gap_seconds=8.0)[-1][0] == pytest.approx(replayer.seconds)
    assert play(plan, tmp_path / "at once", speed=float("inf"))[-1][0] == 0.0


def test_a_manifest_older_than_its_stack_comes_after_it_all_the_same(archive, tmp_path):
    os.utime(archive / star(3), (0, START))
    os.utime(archive / JOINED, (0, START))
    order = [path for _, path, _ in play(plan_session(archive), tmp_path / "in")]
    assert order.index(star(3)) > order.index(stack(3))
    assert order[-1] in (JOINED, star(7))


def test_spacing_takes_the_place_of_lost_times(archive, tmp_path):
    for path in archive.rglob("*.*"):
        os.utime(path, (0, START))
    assert plan_session(archive).seconds == 0.0
    log = play(plan_session(archive, spacing_seconds=5.0), tmp_path / "in")
    assert [(t, p) for t, p, _ in log if p.endswith(".mrcs")] == [(5.0 * (i - 1), stack(i)) for i in range(1, 8)]
    assert [t for t, p, _ in log if p == star(4)] == [15.0]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9, 15, 16])
def test_stopped_and_started_again_it_goes_on_where_it_was(archive, tmp_path, stop_after):
    plan = plan_session(archive, join_every_stacks=3)
    target = tmp_path / "in"
    seen = []

    def stop(arrival):
        seen.append((str(arrival.path), arrival.kind, arrival.n_stacks))
        if len(seen) > stop_after:
            raise Interrupted

    with pytest.raises(Interrupted):
        SessionReplayer(plan, target, speed=float("inf")).run(stop)
    rest = SessionReplayer(plan, target, speed=float("inf"))
    rest.run(lambda a: seen.append((str(a.path), a.kind, a.n_stacks)))
    counts = [n for _, kind, n in seen if kind == "part"]
    assert counts == sorted(counts), "a joined STAR file never shrinks"
    files = [s for s in seen if s[1] != "part"]
    assert len(files) == len(set(files)) == 15
    assert contents(target) == contents(archive)
    assert SessionReplayer(plan, target).waiting == []


def test_a_torn_copy_is_copied_again(archive, tmp_path):
    plan = plan_session(archive)
    target = tmp_path / "in"
    play(plan, target, mode="copy")
    whole = (target / stack(2)).read_bytes()
    (target / stack(2)).write_bytes(whole[:-1])
    play(plan, target, mode="copy")
    assert (target / stack(2)).read_bytes() == whole


def test_links_take_no_space_and_copies_are_files_of_their_own(archive, tmp_path):
    plan = plan_session(archive)
    for mode, same in (("hardlink", True), ("copy", False), ("auto", True)):
        play(plan, tmp_path / mode, mode=mode)
        assert (tmp_path / mode / stack(1)).samefile(archive / stack(1)) is same


def test_the_sessions_folder_is_never_written_to(archive, tmp_path):
    before = contents(archive)
    play(plan_session(archive, join_every_stacks=2), tmp_path / "in")
    assert contents(archive) == before


def test_what_is_left_out_is_told(archive, tmp_path):
    (archive / "micrographs_ctf.star").write_text("data_micrographs\nloop_\n_rlnMicrographName\na.mrc\n")
    (archive / stack(2)).unlink()
    (archive / "notes.txt").write_text("hello")
    plan = plan_session(archive)
    assert [str(p) for p in plan.unread] == ["micrographs_ctf.star"]
    assert plan.missing == ["mic_00002.mrcs"]
    assert plan.n_particles == 23
    play(plan, tmp_path / "in")
    assert not (tmp_path / "in" / "notes.txt").exists()


def test_a_target_that_cannot_be_is_refused(archive, tmp_path):
    plan = plan_session(archive)
    with pytest.raises(ConfigError, match="inside the other"):
        SessionReplayer(plan, archive / "in")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.mrc").touch()
    with pytest.raises(ConfigError, match=r"precious\.mrc, which is not of"):
        SessionReplayer(plan, tmp_path / "full")
    for source in (tmp_path / "full", tmp_path / "none"):
        with pytest.raises(ConfigError):
            plan_session(source)


def test_cryosparc_datasets_come_after_their_stacks(tmp_path):
    z, y, x = np.mgrid[:16, :16, :16] - 8
    microscope = Microscope(np.exp(-(x**2 + y**2 + z**2) / 9), MicroscopeSettings(particles_per_micrograph=3, seed=1))
    SessionWriter(microscope, tmp_path / "a", tmp_path / "truth", file_format="cs").run(6)
    plan = plan_session(tmp_path / "a")
    assert plan.n_particles == 6
    play(plan, tmp_path / "in")
    assert contents(tmp_path / "in") == contents(tmp_path / "a")
