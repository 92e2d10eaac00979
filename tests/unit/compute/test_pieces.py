"""How a batch is cut into pieces: what BLAS makes of a row may hang on how many rows it is given."""

import pytest

from streamrecon.compute.cpu import CpuBackend


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("n", [1, 2, 24, 100, 103])
def test_the_number_of_threads_changes_nothing(n, few):
    cuts = [CpuBackend(threads).run(lambda a, b: (a, b), n, few=few) for threads in (1, 2, 5, 64)]
    assert cuts == [cuts[0]] * 4
    assert cuts[0][0][0] == 0
    assert cuts[0][-1][1] == n
    assert all(one[1] == other[0] for one, other in zip(cuts[0], cuts[0][1:], strict=False))
