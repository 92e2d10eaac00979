"""EM and projection matching on simulated particles: what they find from a good start, and that they ask for one."""

import numpy as np
import pytest

from streamrecon.compare.poses import pose_errors
from streamrecon.compute.cpu import CpuBackend
from streamrecon.errors import NumericalError
from streamrecon.fourier.shells import fourier_shell_correlation, shell_index_rfft
from streamrecon.peers.batch import BatchReconstruction, PeerSettings
from streamrecon.peers.start import low_passed, map_of_true_poses, random_start
from streamrecon.reconstruct.extent import geometry_for
from streamrecon.reconstruct.settings import EngineSettings
from tests.simulated import batches, f1_atpase

BOX, PIXEL = 32, 6.4


@pytest.fixture(scope="module")
def scene():
    truth = f1_atpase(BOX, PIXEL)
    made = list(batches(truth, PIXEL, 160, 1.0, seed=3, size=80))
    return truth, [b for b, _ in made], np.concatenate([r for _, r in made])


def reconstruction(method, tau2="fsc"):
    settings = PeerSettings(method=method, search_shells=8, in_plane_angles=32, tau2=tau2)
    return BatchReconstruction(settings, geometry_for(EngineSettings(), BOX, PIXEL), CpuBackend(1))


@pytest.mark.parametrize(("method", "tau2"), [("em", "fsc"), ("em", "map"), ("projection_matching", "fsc")])
def test_from_a_good_start_poses_and_map_are_found(scene, method, tau2):
    truth, images, rotation = scene
    peer = reconstruction(method, tau2)
    peer.load(images)
    assert len(peer) == 160
    good = map_of_true_poses(images, geometry_for(EngineSettings(), BOX, PIXEL), CpuBackend(1))
    peer.start(low_passed(good, 6))
    first = peer.iterate()
    second = peer.iterate()
    # the grid is 15 degrees wide
    assert pose_errors(rotation, second.rotation).share_within(15) > 0.7
    assert second.log_evidence > first.log_evidence
    shells = shell_index_rfft(BOX)
    fsc = fourier_shell_correlation(np.fft.rfftn(truth), np.fft.rfftn(peer.volume), shells, 7)
    assert fsc[1:].min() > 0.7


def test_the_best_shifts_are_the_true_ones_to_the_grid(scene):
    _, images, _ = scene
    true = np.concatenate([b.table.shift_angstrom for b in images]) / PIXEL
    peer = reconstruction("projection_matching")
    peer.load(images)
    peer.start(map_of_true_poses(images, geometry_for(EngineSettings(), BOX, PIXEL), CpuBackend(1)))
    found = peer.iterate().shift
    assert np.corrcoef(true.ravel(), found.ravel())[0, 1] > 0.7
    assert np.median(np.abs(true - found)) < 0.6 * peer.cells.shift_step


def test_a_map_and_images_are_asked_for(scene):
    peer = reconstruction("em")
    with pytest.raises(NumericalError, match="start"):
        _ = peer.volume
    peer.start(scene[0])
    with pytest.raises(NumericalError, match="load"):
        peer.iterate()


def test_random_starts_are_the_seed_s_and_no_particle(scene):
    truth, images, _ = scene
    geometry = geometry_for(EngineSettings(), BOX, PIXEL)
    one, again, other = (random_start(images[0], geometry, CpuBackend(1), 6, seed) for seed in (1, 1, 2))
    assert (one == again).all()
    # all of them are a round blob; what is in it differs
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.99
    shells = shell_index_rfft(BOX)
    fsc = fourier_shell_correlation(np.fft.rfftn(truth), np.fft.rfftn(one), shells, 7)
    assert fsc[5:].max() < 0.5
