"""Once a symmetry is imposed, poses and views come out in the frame of the published maps: those found before, too."""

import numpy as np
from fakes import Ledger, SumEngine
from scipy.spatial.transform import Rotation
from sessions import Session, batches, make_config

from streamrecon.assess.directions import pixel_directions
from streamrecon.geometry.orientation import Orientation
from streamrecon.io import read_star

TURN = Orientation(
    "D2", Rotation.from_euler("ZYZ", [20, 65, -40], degrees=True).as_matrix(), np.array([1.0, 2.0, -1.0])
)


class TurningEngine(SumEngine):
    """Finds every particle at the same pose, and the axes after 40 of them."""

    @property
    def orientation(self):
        return TURN if self.seen > 40 else Orientation()


def assert_seen_along(beam, told, n):
    """All views lie in one pixel, and that is not further from the beam than a pixel reaches."""
    (pixel,) = np.flatnonzero(told.angular)
    assert told.angular[pixel] == n
    assert pixel_directions(8)[pixel] @ beam > np.cos(np.radians(8.0))


def test_exports_published_poses_and_views_follow_the_orientation(tmp_path):
    session = Session(tmp_path, Ledger(batches(4)), make_config(tmp_path), TurningEngine)
    assert session.start() == "drained"
    expected, center = TURN.rotation.T, TURN.center[:2] * 3.0  # 3 A a pixel, seen along z
    table = read_star(tmp_path / "particles.star")
    np.testing.assert_allclose(table.rotation, np.broadcast_to(expected, (80, 3, 3)), atol=1e-5)
    np.testing.assert_allclose(table.shift_angstrom, np.broadcast_to(center, (80, 2)), atol=1e-4)
    published = [result.rotation[0] for _, result, _, _ in session.publisher.poses]
    np.testing.assert_allclose(published[:2], [np.eye(3)] * 2, atol=1e-6)
    np.testing.assert_allclose(published[2:], [expected] * 2, atol=1e-5)
    assert_seen_along(expected[:, 2], session.reconstruction.told(), 80)


def test_a_resumed_session_counts_views_in_the_published_frame(tmp_path):
    ledger = Ledger(batches(4))
    session = Session(tmp_path, ledger, make_config(tmp_path), TurningEngine)
    session.start()
    ledger.batches |= {5: batches(5)[5]}
    session.start()
    assert_seen_along(TURN.rotation.T[:, 2], session.reconstruction.told(), 100)
