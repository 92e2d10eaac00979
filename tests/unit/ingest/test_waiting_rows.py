"""Rows that wait for their stack: a mapping like a dictionary of them, made the long way."""

import msgspec
import numpy as np
import pytest

from streamrecon.ingest.tracked import Stack
from streamrecon.ingest.waiting_rows import NO_ROWS, WaitingRows
from streamrecon.optics.group import OpticsGroup
from streamrecon.particles import ParticleTable
from streamrecon.transport.table_wire import table_to_rows

GROUPS = (OpticsGroup("a", 300.0, 2.7, 0.1, 3.0, 8), OpticsGroup("b", 200.0, 2.0, 0.07, 3.0, 8))


def table_of(sections, micrographs=None):
    n = len(sections)
    numbers = np.arange(n, dtype=np.float32)
    return ParticleTable(
        GROUPS,
        ("/watched/other.mrcs", "/watched/s.mrcs"),
        np.arange(n, dtype=np.int32) % 2,
        np.ones(n, np.int32),
        np.array(sections, np.int32),
        15000 + numbers,
        14000 + numbers,
        numbers,
        np.full(n, np.nan, np.float32),
        micrograph_names=micrographs,
    )


def stack_at(tmp_path):
    return Stack(tmp_path, "s.mrcs", None)


@pytest.mark.parametrize("sections", [[], [0], [3, 1, 0], [5, 5], [2, 0, 2, 1, 0, 7]])
def test_it_is_the_dictionary_of_the_rows_the_last_of_a_section(sections):
    table = table_of(sections, tuple(f"m{i}\udcff.mrc" for i in range(len(sections))))
    expected = {}
    for row in table_to_rows(table):
        name = row.micrograph_name.replace("\udcff", "\\xff")
        expected[row.stack_index] = msgspec.structs.replace(row, stack_name="s.mrcs", micrograph_name=name)
    rows = WaitingRows(table, "s.mrcs")
    assert dict(rows) == expected
    assert len(rows) == len(expected)
    assert sorted(rows) == sorted(expected)
    assert [section in rows for section in range(9)] == [section in expected for section in range(9)]
    with pytest.raises(KeyError):
        rows[8]


def test_of_two_rows_for_a_section_a_stack_has_the_newer(tmp_path):
    old, new = WaitingRows(table_of([0, 1, 2]), "s.mrcs"), WaitingRows(table_of([2, 3]), "s.mrcs")
    stack = stack_at(tmp_path)
    stack.give_rows(WaitingRows(table_of([]), "s.mrcs"))
    assert stack.rows is NO_ROWS
    stack.give_rows(old)
    assert stack.rows is old
    stack.give_rows(new)
    assert stack.rows == {0: old[0], 1: old[1], 2: new[2], 3: new[3]}
    more = WaitingRows(table_of([3, 2, 1, 0]), "s.mrcs")
    stack.give_rows(more)
    assert stack.rows is more


@pytest.mark.parametrize("seed", range(20))
def test_sections_that_the_ledger_has(tmp_path, seed):
    """Against a set."""
    random = np.random.default_rng(seed)
    stack, known = stack_at(tmp_path), set()
    for _ in range(6):
        some = random.choice(70, random.integers(0, 30), replace=False).astype(np.int32)
        if random.random() < 0.6:
            stack.note_known(some.tolist())
            known |= set(some.tolist())
        elif stack.known is not None:
            stack.take_back(list(WaitingRows(table_of(some), "s.mrcs").values()))
            known -= set(some.tolist())
            assert set(some.tolist()) <= set(stack.rows)
        asked = random.integers(0, 100, 40).astype(np.int32)
        assert stack.are_known(asked).tolist() == [section in known for section in asked.tolist()]
    before = dict(stack.rows)
    stack.drop_known_rows()
    assert stack.rows == {section: row for section, row in before.items() if section not in known}
