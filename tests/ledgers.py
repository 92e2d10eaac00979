"""Putting particles into a ledger, and asking which it has, without a stack being examined."""


def known_sections(ledger, stack):
    """Return the zero-based sections of a stack whose particles have its name, in whatever state."""
    rows = ledger._connection.execute("SELECT stack_index FROM particles WHERE stack = ?", (stack,))
    return {index for (index,) in rows}


def add_particles(ledger, rows, bad=None):
    """Add particles by identity, set aside for a (kind, reason) if ``bad`` has one; return how many are newly ready."""
    bad = bad or {}
    with ledger.transaction():
        added = [ledger.add_particle(row, bad.get(identity)) is not None for identity, row in rows.items()]
    return sum(new and identity not in bad for new, identity in zip(added, rows, strict=True))
