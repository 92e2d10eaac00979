"""The control socket as bytes: what a client says can be kept, and said again."""

import zmq

from streamrecon.transport.control_schema import PROTOCOL_VERSION, Command, Knock, Ticket, decode_reply, encode


class Wire:
    """A client's socket without the client: what goes out and comes in is kept as frames."""

    def __init__(self, endpoint, curve=None, routing_id=None):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        if routing_id is not None:
            self._socket.setsockopt(zmq.ROUTING_ID, routing_id)
        if curve is not None:
            curve.use(self._socket)
        self._socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._context.destroy(linger=0)

    def say(self, frames):
        self._socket.send_multipart(frames)

    def hear(self):
        assert self._socket.poll(60_000), "no reply came"
        return decode_reply(self._socket.recv_multipart())

    def silent(self, milliseconds=300):
        return not self._socket.poll(milliseconds)

    def ticket(self):
        self.say(encode(Knock(PROTOCOL_VERSION)))
        reply = self.hear()
        assert isinstance(reply, Ticket)
        return reply.ticket


def command(ticket, verb="pause", request="f" * 32, **changes):
    return encode(Command(version=PROTOCOL_VERSION, ticket=ticket, request=request, verb=verb, **changes))
