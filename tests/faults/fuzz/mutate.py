"""Bytes that are nearly right: seeds of a corpus, changed at random, the same for the same seed.

A change is blind (bits, bytes, pieces) or knows that formats consist of words and of 32 bit fields: a parser that
gets past its first check has more to get wrong.
"""

import random
import re
import struct

_WORD = re.compile(rb"[A-Za-z0-9_.@/+-]+")
_FIELDS = (0, 1, -1, 2, 255, 1023, 1024, 2**16, 2**24, 2**30, 2**31 - 1, -(2**31), 0x7F800000, 0x7FC00000)
_WORDS = (
    b"", b"0", b"-1", b"1e999", b"-1e999", b"nan", b"inf", b"1e-320", b"2147483648", b"-2147483649",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1" * 400, b"null", b"true",
    b"[]", b"{}", b'""', b'"\\ud800"', b"[" * 300, b"(" * 300, b"{\"a\":" * 100, b"'", b'"', b";", b"\n;", b"#",
    b"loop_", b"data_", b"data_particles", b"_rlnImageName", b"save_", b"global_", b"\0", b"\xff\xfe",
    b"\xc3\x28", b"000000@a.mrcs", b"@", b"1@", b"9@/etc/passwd", b"1@../../../../etc/passwd", b"1@a\0b.mrcs",
    b"|O", b"<f8", b"|V0", b"<U3", b"|S0", b"<M8[s]", b"(3,)", b"(-1,)", b"(1,1)", b"(99999999999,)", b"True",
    b"1.5", b"a.mrcs" * 50,
)  # fmt: skip


class Mutator:
    """An endless supply of inputs.

    Parameters
    ----------
    corpus : list of bytes
    seed : int
    most : int
        Inputs are cut to so many bytes.
    """

    def __init__(self, corpus, seed, most=1 << 16):
        self._corpus = corpus
        self._random = random.Random(seed)
        self._most = most
        self._ways = (
            self._bits,
            self._bytes,
            self._word,
            self._word,
            self._field,
            self._cut,
            self._piece,
            self._splice,
        )

    def next(self):
        """Return the next input."""
        data = bytearray(self._random.choice(self._corpus))
        for _ in range(1 + min(7, int(self._random.expovariate(0.7)))):
            data = self._random.choice(self._ways)(data)
        return bytes(data[: self._most])

    def _at(self, data):
        return self._random.randrange(len(data) + 1)

    def _bits(self, data):
        for _ in range(self._random.choice((1, 1, 2, 8))):
            if data:
                data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return data

    def _bytes(self, data):
        at = self._at(data)
        data[at : at + self._random.randrange(8)] = self._random.randbytes(self._random.randrange(8))
        return data

    def _word(self, data):
        start = self._at(data)
        found = _WORD.search(data, start) or _WORD.search(data)
        if found:
            other = self._random.choice(_WORDS)
            if self._random.random() < 0.3:
                other = self._random.choice(_WORD.findall(data[:4096]) or [b""])
            data[found.start() : found.end()] = other
        return data

    def _field(self, data):
        at = 4 * self._random.randrange(max(1, min(len(data), 1024) // 4))
        value = (
            self._random.choice(_FIELDS) if self._random.random() < 0.8 else self._random.randint(-(2**31), 2**31 - 1)
        )
        data[at : at + 4] = struct.pack(self._random.choice("<>") + "i", value)
        return data

    def _cut(self, data):
        at = self._at(data)
        return data[:at] if self._random.random() < 0.7 else data[at:]

    def _piece(self, data):
        start, to = self._at(data), self._at(data)
        piece = data[start : start + self._random.randrange(1, 200)]
        data[to:to] = piece * self._random.choice((1, 1, 2, 50))
        return data

    def _splice(self, data):
        other = self._random.choice(self._corpus)
        return data[: self._at(data)] + other[self._random.randrange(len(other) + 1) :]
