import sqlite3

import pytest

from streamrecon.errors import CheckpointIncompatible, NetworkFilesystem, StateError
from streamrecon.ingest import filesystem
from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.ledger import Ledger
from streamrecon.ingest.ledger_batches import decode_body
from streamrecon.ingest.ledger_schema import FileRecord, Sampling
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.io import identity_of
from streamrecon.transport.table_wire import OpticsWire, ParticleRow
from tests.ledgers import add_particles, known_sections

OPTICS = OpticsWire("g", 300.0, 2.7, 0.1, 3.0, 8)


def rows(stack, indices, optics=OPTICS):
    made = [ParticleRow(stack, i, optics, (1.5, 2.5, 3.5, None)) for i in indices]
    return {row.identity: row for row in made}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", "test") as made:
        yield made


def make_batches(ledger, n_batches, batch_size=2):
    add_particles(ledger, rows("s.mrcs", range(n_batches * batch_size)))
    return Batcher(ledger, NoIngestMetrics(), batch_size, 0.0).make(0.0)


def test_identity_is_the_same_as_io_spells_it(tmp_path):
    (identity,) = rows("a/b c.mrcs", [41])
    assert identity == identity_of(tmp_path / "a" / "b c.mrcs", tmp_path, 41)


def test_a_particle_is_added_once(ledger):
    assert add_particles(ledger, rows("s.mrcs", [0, 1])) == 2
    assert add_particles(ledger, rows("s.mrcs", [1, 2])) == 1
    assert known_sections(ledger, "s.mrcs") == {0, 1, 2}
    assert ledger.counts().particles["ready"] == 3


def test_batches_survive_reopening_with_the_same_bytes(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, "test") as ledger:
        session = ledger.session
        assert make_batches(ledger, 3) == [1, 2, 3]
        before = [ledger.batches.get(i) for i in (1, 2, 3)]
    with Ledger(path) as ledger:
        assert ledger.session == session
        assert ledger.session_name == "test"
        assert [ledger.batches.get(i) for i in (1, 2, 3)] == before
        assert decode_body(before[1]).stack_index == [2, 3]


def test_nothing_of_a_failed_transaction_stays(ledger):
    def fail():
        with ledger.transaction():
            add_particles(ledger, rows("s.mrcs", [0]))
            ledger.put_sampling(Sampling(8, 3.0, "s.mrcs"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert ledger.counts().particles["ready"] == 0
    assert ledger.sampling() is None
    assert add_particles(ledger, rows("s.mrcs", [0])) == 1


def test_leases_go_out_in_order_of_ids_and_come_back(ledger):
    make_batches(ledger, 3)
    batches = ledger.batches
    assert [batches.lease_next("w").batch_id for _ in range(2)] == [1, 2]
    assert batches.leases() == {"w": [1, 2]}
    assert batches.requeue("w") == 2
    assert [batches.lease_next("w").batch_id for _ in range(3)] == [1, 2, 3]
    assert batches.lease_next("w") is None


def test_folding_twice_counts_once(ledger):
    make_batches(ledger, 2)
    ledger.batches.lease_next("w")
    folded, refused = ledger.batches.fold([1], "w")
    assert ([b.batch_id for b in folded], refused) == ([1], [])
    assert ledger.batches.fold([1], "w") == ([], [])
    assert ledger.batches.fold([1, 77], "other") == ([], [1, 77])
    assert ledger.counts().particles == {"ready": 0, "queued": 2, "folded": 2, "quarantined": 0}


def test_synchronise_takes_the_checkpoint_as_the_truth(ledger):
    make_batches(ledger, 6)
    batches = ledger.batches
    for _ in range(5):
        batches.lease_next("w")
    batches.fold([1, 2], "w")
    # The checkpoint has 1 and 3; 4 is in memory; 2 was lost with a newer checkpoint; 5 never arrived.
    folded, refused, requeued = batches.synchronise("w", [(1, 1), (3, 3)], [4])
    assert [b.batch_id for b in folded] == [3]
    assert refused == []
    assert requeued == [2, 5]
    assert [batches.get(i).state for i in range(1, 7)] == [
        "folded", "queued", "folded", "leased", "queued", "queued",
    ]  # fmt: skip
    assert batches.synchronise("w", [(1, 1), (3, 3)], [4]) == ([], [], [])


def test_synchronise_refuses_what_the_ledger_cannot_account_for(ledger):
    make_batches(ledger, 2)
    ledger.batches.lease_next("other")
    assert ledger.batches.synchronise("w", [(2, 900_000_000)], [1])[1] == [900_000_000, 1]


def test_withdrawn_batch_gives_its_good_particles_back(ledger):
    make_batches(ledger, 1, batch_size=3)
    again = ledger.batches.withdraw(1, {"000002@s.mrcs": ("stack_corrupt", "why")})
    assert again == 2
    assert [e.identity for e in ledger.quarantined()] == ["000002@s.mrcs"]
    assert Batcher(ledger, NoIngestMetrics(), 10, 0.0).make(0.0) == [2]
    assert decode_body(ledger.batches.get(2)).stack_index == [0, 2]


def test_released_particles_come_back_as_rows(ledger):
    particles = rows("s.mrcs", [0, 1])
    assert add_particles(ledger, particles, {"000002@s.mrcs": ("stack_corrupt", "why")}) == 1
    assert ledger.counts().particles == {"ready": 1, "queued": 0, "folded": 0, "quarantined": 1}
    assert ledger.release("s.mrcs") == [particles["000002@s.mrcs"]]
    assert known_sections(ledger, "s.mrcs") == {0}
    assert ledger.quarantined() == []


def test_same_reason_is_told_once(ledger):
    assert ledger.quarantine("s.mrcs", "stack_corrupt", "why")
    assert not ledger.quarantine("s.mrcs", "stack_corrupt", "why")
    assert ledger.quarantine("s.mrcs", "stack_corrupt", "other")
    assert len(ledger.quarantined()) == 1


def test_stack_keeps_the_signature_of_when_it_was_ready(ledger):
    ledger.put_stack(FileRecord("s.mrcs", "seen"))
    assert ledger.stack_signature("s.mrcs") is None
    ledger.put_stack(FileRecord("s.mrcs", "ready", 100, 7, 5, 8))
    ledger.put_stack(FileRecord("s.mrcs", "settling"))
    assert ledger.stack_signature("s.mrcs") == (100, 7)
    assert [s.state for s in ledger.stacks()] == ["settling"]


def test_oldest_unfolded(ledger):
    assert ledger.oldest_unfolded_at() is None
    make_batches(ledger, 1)
    assert ledger.oldest_unfolded_at() > 1e9
    ledger.batches.fold([1], "w")
    assert ledger.oldest_unfolded_at() is None


def test_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "filesystem_type", lambda _: "nfs4")
    with pytest.raises(NetworkFilesystem, match=r"nfs4.*session\.output_dir"):
        Ledger(tmp_path / "ledger.sqlite")
    assert not (tmp_path / "ledger.sqlite").exists()


def test_second_ingester_is_refused(tmp_path, ledger):
    with pytest.raises(StateError, match="another ingester"):
        Ledger(tmp_path / "ledger.sqlite")
    with Ledger(tmp_path / "ledger.sqlite", access="read") as reader:
        assert reader.session == ledger.session
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            add_particles(reader, rows("s.mrcs", [0]))


def test_missing_foreign_and_newer_ledgers(tmp_path):
    with pytest.raises(StateError, match="found none"):
        Ledger(tmp_path / "no.sqlite", access="read")
    (tmp_path / "text.sqlite").write_text("this is no database, whatever its name may say " * 50)
    with pytest.raises(StateError, match=r"text\.sqlite"):
        Ledger(tmp_path / "text.sqlite")
    with Ledger(tmp_path / "new.sqlite") as ledger:
        ledger._database.put_meta("schema_version", "99")
    with pytest.raises(CheckpointIncompatible, match="found 99"):
        Ledger(tmp_path / "new.sqlite")


def test_ledger_is_durable_as_configured(ledger):
    pragma = ledger._connection.execute
    assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
    assert pragma("PRAGMA synchronous").fetchone() == (2,)


class TestBatcher:
    def test_full_at_once_partial_after_a_while(self, ledger):
        batcher = Batcher(ledger, NoIngestMetrics(), 3, 5.0)
        add_particles(ledger, rows("s.mrcs", range(7)))
        assert batcher.make(100.0) == [1, 2]
        assert batcher.make(104.9) == []
        assert batcher.make(105.0) == [3]
        assert [ledger.batches.get(i).n for i in (1, 2, 3)] == [3, 3, 1]

    def test_flush(self, ledger):
        add_particles(ledger, rows("s.mrcs", range(2)))
        assert Batcher(ledger, NoIngestMetrics(), 3, 5.0).make(0.0, flush=True) == [1]

    def test_wait_starts_anew_after_a_batch(self, ledger):
        batcher = Batcher(ledger, NoIngestMetrics(), 2, 5.0)
        add_particles(ledger, rows("s.mrcs", [0]))
        assert batcher.make(0.0) == []
        add_particles(ledger, rows("s.mrcs", [1, 2]))
        assert batcher.make(4.0) == [1]
        assert batcher.make(5.0) == []
        assert batcher.make(9.0) == [2]

    def test_back_pressure(self, ledger):
        batcher = Batcher(ledger, NoIngestMetrics(), 1, 0.0, max_queued=2)
        add_particles(ledger, rows("s.mrcs", range(4)))
        assert batcher.make(0.0) == [1, 2]
        assert batcher.make(0.0) == []
        assert ledger.counts().particles["ready"] == 2
        ledger.batches.lease_next("w")
        assert batcher.make(0.0) == [3]

    def test_box_sizes_never_mix(self, ledger):
        other = OpticsWire("g", 300.0, 2.7, 0.1, 3.0, 16)
        add_particles(ledger, rows("s.mrcs", range(2)))
        add_particles(ledger, rows("t.mrcs", range(2), other))
        batcher = Batcher(ledger, NoIngestMetrics(), 10, 5.0)
        assert batcher.make(0.0) == [1]
        assert batcher.make(5.0) == [2]
        assert [decode_body(ledger.batches.get(i)).stack_names for i in (1, 2)] == [["s.mrcs"], ["t.mrcs"]]
