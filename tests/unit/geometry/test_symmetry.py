import numpy as np
import pytest

from streamrecon.geometry.symmetry import generators, normalised_group, symmetry_operators

ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D2": 4, "D5": 10, "T": 12, "O": 24, "I": 60}


@pytest.mark.parametrize(("group", "order"), ORDERS.items())
def test_operators_are_a_group_of_rotations(group, order):
    operators = symmetry_operators(group)
    assert operators.shape == (order, 3, 3)
    np.testing.assert_array_equal(operators[0], np.eye(3))
    np.testing.assert_allclose(
        operators @ operators.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (order, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(operators), 1)
    products = np.einsum("aij,bjk->abik", operators, operators).reshape(-1, 1, 3, 3)
    assert np.abs(products - operators).max(axis=(2, 3)).min(axis=1).max() < 1e-9


def test_polyhedra_have_as_many_axes_as_they_should():
    """Rotations by their angle: a class of conjugates each."""
    expected = {"T": {180: 3, 120: 8}, "O": {180: 9, 120: 8, 90: 6}, "I": {180: 15, 120: 20, 72: 12, 144: 12}}
    for group, classes in expected.items():
        trace = np.trace(symmetry_operators(group)[1:], axis1=1, axis2=2)
        angle = np.rad2deg(np.arccos(np.clip((trace - 1) / 2, -1, 1))).round().astype(int)
        assert dict(zip(*np.unique(angle, return_counts=True), strict=True)) == classes


def test_names_are_read_kindly_and_nonsense_is_refused():
    assert [normalised_group(g) for g in ("c3", " D7", "i2", "I", "d1")] == ["C3", "D7", "I", "I", "C2"]
    for bad in ("", "C0", "C100", "X", "D", "H3", "auto"):
        with pytest.raises(ValueError, match="expected C1"):
            normalised_group(bad)
    assert generators("C1") == ()
