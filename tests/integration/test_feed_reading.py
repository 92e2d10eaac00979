"""Where a worker reads the images of a batch, and what it refuses to read."""

import numpy as np
import pytest

from streamrecon.errors import IngestError
from streamrecon.io import read_sections
from streamrecon.transport import feed_schema
from streamrecon.transport.feed_client import FeedClient, _read_stacks
from streamrecon.transport.table_wire import table_from_rows, table_to_wire
from tests.integration.feed_helpers import FREE_PORT, fill, row, take


class TestWhereAWorkerReads:
    """By reference only below its own root: a name from the ingester does not lead it elsewhere."""

    def test_below_its_root_by_reference_elsewhere_as_pixels(self, tmp_path, serve, monkeypatch):
        fill(tmp_path)
        server = serve()
        opened = []

        def reading(path, sections, **options):
            opened.append(path)
            return read_sections(path, sections, **options)

        monkeypatch.setattr("streamrecon.transport.feed_client.read_sections", reading)
        with FeedClient(server.endpoint, "w", root=tmp_path / "elsewhere", credits=1) as client:
            ((_, batch),) = take(client, 1)
            np.testing.assert_array_equal(batch.images, read_sections(tmp_path / "s0.mrcs", range(5)))
            assert opened == []
        with FeedClient(server.endpoint, "w2", root=tmp_path, credits=1) as client:
            take(client, 1)
            assert opened

    @pytest.mark.parametrize("name", ["{root}/../secret.mrcs", "/etc/passwd", "{root}x/s.mrcs", "s.mrcs"])
    def test_names_that_lead_out(self, tmp_path, monkeypatch, name):
        root = tmp_path / "root"
        monkeypatch.setattr("streamrecon.transport.feed_client._read_stacks", lambda *_: pytest.fail("it was opened"))
        table = table_from_rows([row(name.format(root=root), 0)])
        with FeedClient(FREE_PORT.replace(":0", ":9"), "w", root=root) as client:
            message = feed_schema.Batch(
                batch_id=1,
                session="s",
                table=table_to_wire(table),
                identities=["1"],
                by_reference=True,
                box_size=8,
                stack_bytes=[1],
                stack_mtimes_ns=[1],
            )
            with pytest.raises(IngestError, match="pixels are asked for instead"):
                client._read_by_reference(message, table)

    def test_nothing_is_allocated_for_a_batch_beyond_the_limit(self, monkeypatch):
        monkeypatch.setattr("streamrecon.transport.feed_client.MAX_PIXEL_BYTES", 4 * 8 * 8)
        monkeypatch.setattr(np, "empty", lambda *_: pytest.fail("it was allocated"))
        table = table_from_rows([row("s.mrcs", 0), row("s.mrcs", 1)])
        message = feed_schema.Batch(
            batch_id=1, session="s", table=table_to_wire(table), identities=["1", "2"], by_reference=True, box_size=8
        )
        with pytest.raises(IngestError, match=r"at most 256 bytes of pixels, found 512"):
            _read_stacks(message, table)
