"""A ledger that was put back from an older copy: its batches have the numbers of others, and are told from them."""

import shutil
import sqlite3

import pytest

from streamrecon.errors import CheckpointIncompatible
from streamrecon.ingest.batcher import Batcher
from streamrecon.ingest.ledger import LEDGER_NAME, Ledger
from streamrecon.ingest.ledger_schema import SCHEMA_VERSION
from streamrecon.ingest.metrics import NoIngestMetrics
from streamrecon.io import write_stack
from streamrecon.transport.feed_client import FeedClient
from tests.integration.feed_helpers import crash, fill, lasting_endpoint, row, states, take, until
from tests.integration.ingest_helpers import PIXEL_SIZE, images
from tests.ledgers import add_particles


def more(tmp_path, *stacks):
    """Let stacks come in this order, and make a batch of each."""
    with Ledger(tmp_path / LEDGER_NAME) as ledger:
        for s in stacks:
            write_stack(tmp_path / f"s{s}.mrcs", images(5, seed=s), PIXEL_SIZE)
            rows = [row(f"s{s}.mrcs", i) for i in range(5)]
            add_particles(ledger, {r.identity: r for r in rows})
        Batcher(ledger, NoIngestMetrics(), 5, 0.0).make(0.0, flush=True)


def put_back(tmp_path):
    shutil.copyfile(tmp_path / "copy.sqlite", tmp_path / LEDGER_NAME)


def chain_of(tmp_path):
    with Ledger(tmp_path / LEDGER_NAME, access="read") as ledger:
        return [ledger.batches.chain.at(batch_id) for batch_id in range(1, 10)]


@pytest.fixture
def worker(tmp_path, serve):
    """What a worker's checkpoint says of batches 1 to 4, of which a copy of the ledger has the first two."""
    fill(tmp_path)
    shutil.copyfile(tmp_path / LEDGER_NAME, tmp_path / "copy.sqlite")
    more(tmp_path, 2, 3)
    server = serve()
    with FeedClient(server.endpoint, "w") as client:
        take(client, 4)
        client.ack([2, 1, 3, 4])
        until(lambda: states(tmp_path) == {"folded": 4})
        said = {"folded": [1, 2, 3, 4], "session": client.session, "folded_link": client.link(4)}
    server.stop()
    put_back(tmp_path)
    return said


def refusal(serve, said):
    server = serve()
    with FeedClient(server.endpoint, "w", **said) as client, pytest.raises(CheckpointIncompatible) as refused:
        client.poll(60)
    server.stop()
    return str(refused.value)


def test_a_copy_that_has_made_other_batches_since_is_refused_and_believes_nothing(tmp_path, serve, worker):
    more(tmp_path, 3, 2)
    text = refusal(serve, worker)
    assert states(tmp_path) == {"queued": 4}
    assert f"link {chain_of(tmp_path)[3]} at batch 4, found {worker['folded_link']}" in text
    for part in (str(tmp_path / LEDGER_NAME), "worker w", "Put the newer ledger back", "session.output_dir"):
        assert part in text


def test_a_copy_that_has_made_no_batches_since_is_refused_and_believes_nothing(tmp_path, serve, worker):
    text = refusal(serve, worker)
    assert "expected batches up to 2, found batch 4" in text
    assert "Put the newer ledger back" in text
    assert states(tmp_path) == {"queued": 2}


def test_a_copy_that_has_made_the_same_batches_again_is_as_good(tmp_path, serve, worker):
    more(tmp_path, 2, 3)
    server = serve()
    with FeedClient(server.endpoint, "w", **worker) as client:
        until(lambda: states(tmp_path) == {"folded": 4})
        assert client.link(4) == chain_of(tmp_path)[3]


def test_a_checkpoint_that_knows_no_link_is_believed_as_before(tmp_path, serve, worker):
    more(tmp_path, 3, 2)
    server = serve()
    with FeedClient(server.endpoint, "w", folded=[1, 2, 3, 4], session=worker["session"]):
        until(lambda: states(tmp_path) == {"folded": 4})


def test_an_older_checkpoint_fits_the_copy_that_fits_it(tmp_path, serve, worker):
    """The worker's own copy of that time: what came after is folded again, whatever its number is now."""
    link = chain_of(tmp_path)[1]
    more(tmp_path, 3, 2)
    server = serve()
    said = {"folded": [1, 2], "session": worker["session"], "folded_link": link}
    with FeedClient(server.endpoint, "w", **said) as client:
        taken = take(client, 2)
    assert [batch.identities[0] for _, batch in taken] == ["000001@s3.mrcs", "000001@s2.mrcs"]


def test_what_a_worker_holds_is_held_against_the_copy_too(tmp_path, serve):
    """The ledger is put back while a worker goes on, with batches in memory that the copy gives to others."""
    fill(tmp_path)
    shutil.copyfile(tmp_path / LEDGER_NAME, tmp_path / "copy.sqlite")
    more(tmp_path, 2)
    endpoint = lasting_endpoint()
    server = serve(endpoint=endpoint)
    with FeedClient(endpoint, "w") as client:
        take(client, 3)
        client.ack([1, 2])
        until(lambda: states(tmp_path) == {"folded": 2, "leased": 1})
        server.stop()
        put_back(tmp_path)
        more(tmp_path, 3)
        serve(endpoint=endpoint)
        with pytest.raises(CheckpointIncompatible, match="at batch 3, found"):
            client.poll(60)
    assert states(tmp_path) == {"queued": 3}


def test_several_workers_each_with_some_of_the_batches(tmp_path, serve):
    """Of one that has none of the batches that the copy lacks nothing is wrong; of the other, what it has."""
    fill(tmp_path)
    shutil.copyfile(tmp_path / LEDGER_NAME, tmp_path / "copy.sqlite")
    more(tmp_path, 2)
    server = serve()
    one, two = (FeedClient(server.endpoint, name, credits=credits) for name, credits in (("one", 1), ("two", 2)))
    with one, two:
        until(lambda: states(tmp_path) == {"leased": 3})
        said = {}
        for name, client, n in (("one", one, 1), ("two", two, 2)):
            ids = [batch_id for batch_id, _ in take(client, n)]
            client.ack(ids)
            said[name] = {"folded": ids, "session": client.session, "folded_link": client.link(max(ids))}
        until(lambda: states(tmp_path) == {"folded": 3})
    server.stop()
    late = max(said, key=lambda name: max(said[name]["folded"]))
    (early,) = said.keys() - {late}
    put_back(tmp_path)
    more(tmp_path, 3)
    server = serve()
    with FeedClient(server.endpoint, late, **said[late]) as client, pytest.raises(CheckpointIncompatible):
        client.poll(60)
    with FeedClient(server.endpoint, early, **said[early]):
        until(lambda: states(tmp_path).get("folded") == len(said[early]["folded"]))


def test_withdrawn_and_sent_again_batches_keep_their_links(tmp_path, serve):
    fill(tmp_path, stacks=4)
    server = serve()
    first = FeedClient(server.endpoint, "w")
    take(first, 4)
    before = [first.link(batch_id) for batch_id in (1, 2, 3, 4)]
    assert len(set(before)) == 4
    first.nack(4, "numerical_error", "every pose weight is NaN")
    until(lambda: states(tmp_path) == {"leased": 3, "withdrawn": 1})
    session = first.session
    crash(first)
    # its checkpoint has 1 and 2: the tip it gives is of the highest that it has, not of the one withdrawn
    with FeedClient(server.endpoint, "w", folded=[1, 2], session=session, folded_link=before[1]) as second:
        assert [batch_id for batch_id, _ in take(second, 1)] == [3]
        assert second.link(3) == before[2]
        assert second.link(2) == before[1]
        second.ack([3])
        assert second.link(3) == before[2]
        assert second.link(2) == ""
        until(lambda: states(tmp_path) == {"folded": 3, "withdrawn": 1})
    server.stop()
    assert chain_of(tmp_path)[:4] == before


def test_a_link_hangs_on_particles_and_on_numbers(tmp_path):
    """And on nothing else: two ledgers that made the same batches have the same chain."""
    chains = []
    for name, stacks, gap in (("a", (2, 3), 0), ("b", (2, 3), 0), ("c", (3, 2), 0), ("d", (2, 3), 7)):
        folder = tmp_path / name
        folder.mkdir()
        fill(folder)
        with sqlite3.connect(folder / LEDGER_NAME) as connection:
            connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'batches'", (gap,))
        connection.close()
        more(folder, *stacks)
        with Ledger(folder / LEDGER_NAME) as ledger:
            links = [ledger.batches.chain.at(batch_id) for batch_id in (1, 2, 3 + gap, 4 + gap)]
            assert "" not in links
            chains.append(links)
    a, b, c, d = chains
    assert a == b
    assert a[:2] == c[:2] == d[:2]
    assert a[2] != c[2]
    assert a[3] not in (c[3], d[3])


def test_an_earlier_ledger_gets_the_chain_that_it_would_have_had(tmp_path):
    fill(tmp_path, stacks=4)
    with Ledger(tmp_path / LEDGER_NAME) as ledger:
        ledger.batches.withdraw(2, {"000001@s1.mrcs": ("stack_corrupt", "why")})
        Batcher(ledger, NoIngestMetrics(), 5, 0.0).make(0.0, flush=True)
    before = chain_of(tmp_path)
    assert before.count("") == 4
    with sqlite3.connect(tmp_path / LEDGER_NAME) as old:
        old.executescript("DROP TABLE links; UPDATE meta SET value = '4' WHERE key = 'schema_version'")
    old.close()
    with Ledger(tmp_path / LEDGER_NAME, access="read") as reader:
        assert reader.counts().batches == {"queued": 4, "withdrawn": 1}
    with Ledger(tmp_path / LEDGER_NAME) as owner:
        assert owner._database.meta("schema_version") == str(SCHEMA_VERSION)
    assert chain_of(tmp_path) == before
