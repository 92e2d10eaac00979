"""What the worker's client says and takes, against a server played by the test, message by message."""

import msgspec
import numpy as np
import pytest
import zmq

from streamrecon.transport.feed_client import FeedClient
from streamrecon.transport.feed_schema import (
    PROTOCOL_VERSION,
    Ack,
    Batch,
    Bye,
    Credit,
    Drained,
    ErrorReply,
    Heartbeat,
    Hello,
    Welcome,
    decode_worker_message,
    encode,
)
from streamrecon.transport.table_wire import OpticsWire, ParticleRow, table_from_rows, table_to_wire

OPTICS = OpticsWire("g", 300.0, 2.7, 0.1, 3.0, 4)
WELCOME = Welcome(version=PROTOCOL_VERSION, session="s", session_name="n", lease_seconds=60.0)


class Script:
    """The server's side of the conversation."""

    def __init__(self):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._route = b""

    def hear(self, *kinds):
        """Return the next message of one of these kinds; others are passed over."""
        while True:
            assert self._socket.poll(60_000), f"none of {kinds} came"
            self._route, *frames = self._socket.recv_multipart()
            message = decode_worker_message(frames)
            if isinstance(message, kinds):
                return message

    def welcome(self, hello, batch_id):
        """Answer a Hello as an ingester that counts them does, and lend a batch."""
        self.say(msgspec.structs.replace(WELCOME, hello=hello.number))
        self.say_batch(batch_id)

    def say(self, message, pixels=None):
        self._socket.send_multipart([self._route, *encode(message, pixels)])

    def say_batch(self, batch_id):
        row = ParticleRow(f"s{batch_id}.mrcs", 0, OPTICS, (1.0, 1.0, 0.0, 0.0))
        message = Batch(
            batch_id=batch_id,
            session="s",
            table=table_to_wire(table_from_rows([row])),
            identities=[row.identity],
            by_reference=False,
            box_size=4,
        )
        self.say(message, np.full((1, 4, 4), batch_id, np.float32))

    def speaks(self):
        """Whether something waits to be heard."""
        return bool(self._socket.poll(0))

    def close(self):
        self._context.destroy(linger=0)


@pytest.fixture
def script():
    made = Script()
    yield made
    made.close()


def test_batch_that_comes_twice_is_handed_out_once(script):
    with FeedClient(script.endpoint, "w", folded=[3]) as client:
        script.hear(Hello)
        script.say(WELCOME)
        for batch_id in (1, 1, 3, 2, 1):
            script.say_batch(batch_id)
        script.say(Drained())
        taken = []
        while not client.drained:
            item = client.poll(60)
            if item is not None:
                taken.append(item[0])
        assert taken == [1, 2]
        # What is in the checkpoint is acknowledged again, in case that it was not heard.
        assert script.hear(Ack) == Ack([3])


def test_dropped_duplicates_give_their_credit_back(script):
    with FeedClient(script.endpoint, "w", credits=2):
        assert script.hear(Hello).credits == 2
        script.say(WELCOME)
        script.say_batch(1)
        script.say_batch(1)
        assert script.hear(Credit) == Credit(1)


def test_hello_says_what_is_held_and_what_is_durable(script):
    with FeedClient(script.endpoint, "w", folded=[1, 2, 5], session="s", credits=4) as client:
        first = script.hear(Hello)
        assert (first.worker_id, first.session, first.folded, first.held) == ("w", "s", [(1, 2), (5, 5)], [])
        script.say(WELCOME)
        for batch_id in (3, 4, 6):
            script.say_batch(batch_id)
        assert [client.poll(60)[0], client.poll(60)[0]] == [3, 4]
        client.ack([3])
        assert script.hear(Ack) == Ack([3])
        script.say(ErrorReply("unknown_worker", "say Hello again"))
        again = script.hear(Hello)
        # 3 was acknowledged, 4 is being folded, 6 waits in the client and takes one of its credits.
        assert (again.folded, again.held, again.credits) == ([(1, 3), (5, 5)], [4, 6], 3)


def test_what_was_lent_before_a_hello_was_repeated_is_not_taken(script):
    """The later Hello did not name it as held: by now it may be another worker's."""
    with FeedClient(script.endpoint, "w", credits=1) as client:
        first, again = script.hear(Hello), script.hear(Hello)
        script.welcome(first, 1)
        script.welcome(again, 2)
        while (item := client.poll(0.05)) is None:
            # where it took us long the client has repeated itself once more
            if script.speaks() and isinstance(hello := script.hear(Hello, Heartbeat), Hello):
                script.welcome(hello, 2)
        assert item[0] == 2
        client.ack([2])
        # nor does it give a credit for what it has not taken
        assert [script.hear(Credit, Ack), script.hear(Credit, Ack)] == [Credit(1), Ack([2])]


def test_close_says_bye(script):
    client = FeedClient(script.endpoint, "w")
    script.hear(Hello)
    script.say(WELCOME)
    while client.welcome is None:
        client.poll(0.1)
    client.close()
    assert script.hear(Bye) == Bye()
