"""A ledger that an earlier version began is taken up, and learns what its stacks hold."""

import sqlite3

import pytest

from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_migrations import MIGRATIONS
from streamrecon.ingest.ledger_schema import SCHEMA_VERSION
from tests.integration.copy_helpers import assert_once, delivered, is_ready, move, particles, put
from tests.integration.ingest_helpers import Bench, images, put_stack_and_star

# what version 3 knew: which images a stack began with, by its first name, and where those lie that were renamed
TO_VERSION_3 = f"""
CREATE TABLE held AS SELECT name AS stack, first, sample, sections, number FROM files JOIN contents ON number = content;
DROP TABLE places; DROP TABLE files; DROP TABLE contents; DROP TABLE links;
{MIGRATIONS["2"]}
INSERT INTO contents SELECT * FROM held; DROP TABLE held;
UPDATE meta SET value = '3' WHERE key = 'schema_version';
"""
TO_VERSION_2 = (
    "DROP TABLE places; DROP TABLE files; DROP TABLE contents; DROP TABLE links;"
    "UPDATE meta SET value = '2' WHERE key = 'schema_version'"
)


@pytest.mark.parametrize("script", [TO_VERSION_3, TO_VERSION_2])
def test_a_ledger_of_a_version_before_learns_what_its_stacks_hold(root, ledger_path, script):
    first = Bench(root, ledger_path)
    stack, _ = put_stack_and_star(root)
    put(root / "other.mrcs", images(9, seed=2))
    first.look()
    assert first.ready() == 14
    first.ledger.close()
    with sqlite3.connect(ledger_path) as old:
        old.executescript(script)
    old.close()
    reader = Ledger(ledger_path, access="read")
    assert reader.counts().particles["ready"] == 14
    assert reader.counts().copies == 0
    reader.close()
    second = Bench(root, ledger_path)
    assert second.ledger._database.meta("schema_version") == str(SCHEMA_VERSION)
    connection = second.ledger._connection
    second.look()
    assert connection.execute("SELECT count(image) FROM places").fetchone()[0] == 14
    move(stack, "better.mrcs")
    put(root / "some.mrcs", images(9, seed=2)[[7, 2]])
    second.look()
    assert is_ready(second, "better.mrcs", "some.mrcs")
    second.look()
    assert second.ready() == particles(second) == 14
    found, _ = delivered(second)
    assert_once(found, images(5), images(9, seed=2))
    second.ledger.close()


def test_a_ledger_of_version_3_knows_what_was_renamed(root, ledger_path):
    first = Bench(root, ledger_path)
    stack, _ = put_stack_and_star(root)
    first.look()
    assert first.ready() == 5
    first.ledger.close()
    with sqlite3.connect(ledger_path) as old:
        old.executescript(TO_VERSION_3)
        old.execute("INSERT INTO places VALUES ('good.mrcs', 'better.mrcs')")
    old.close()
    move(stack, "better.mrcs")
    put(stack, images(5, seed=1))  # another under its name
    second = Bench(root, ledger_path)
    second.look()
    assert second.ready() == 10
    second.look()
    assert particles(second) == 10
    found, _ = delivered(second)
    assert_once(found, images(5), images(5, seed=1))
    second.ledger.close()
