"""The settle machine against a model of the file system, in every order hypothesis can think of."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamrecon.ingest.settle import FileSettle, FileState, Problem, SettleTimes

SETTLE, ORPHAN, RETRY = 2.0, 20.0, 1.0
CUT = Problem("stack_incomplete", "too short", transient=True)
BROKEN = Problem("stack_corrupt", "no MRC file", transient=False)


class SettleMachine(RuleBasedStateMachine):
    """Time in steps of half a second; `looked` is what the machine can know."""

    def __init__(self):
        super().__init__()
        self.now = 1000.0
        self.machine = FileSettle(SettleTimes(SETTLE, ORPHAN, RETRY), self.now)
        self.file = None  # (size, mtime_ns) or None
        self.verdict_of_file = None
        self.looked = None
        self.looked_since = self.now
        self.verdict = "none"
        self.named = False
        self.mtime = 0

    @rule(half_seconds=st.integers(1, 60))
    def wait(self, half_seconds):
        self.now += half_seconds / 2

    @rule(seconds=st.floats(0.1, 5000))
    def step_back(self, seconds):
        """A clock that steps back for one call must not make anything ready sooner."""
        before = self.machine.state(self.now)
        assert self.machine.state(self.now - seconds) is before

    @rule(size=st.integers(0, 3), verdict=st.sampled_from([None, CUT, BROKEN]))
    def write(self, size, verdict):
        self.mtime += 1
        self.file = (size, self.mtime)
        self.verdict_of_file = verdict

    @rule()
    def delete(self):
        self.file = None

    @rule()
    def look(self):
        changed = self.file != self.looked
        if self.file is None:
            assert self.machine.vanish(self.now) is changed
        else:
            assert self.machine.observe(*self.file, self.now) is changed
        if changed:
            self.looked, self.looked_since, self.verdict = self.file, self.now, "none"

    @rule()
    def name_it(self):
        if not self.named and self.looked is None:
            self.looked_since = self.now
        self.named = True
        self.machine.refer(self.now)

    @precondition(lambda self: self.machine.wants_probe(self.now))
    @rule()
    def probe(self):
        assert self.looked is not None
        assert self.named
        assert self.now - self.looked_since >= SETTLE
        # As the collector does it: a file that changed meanwhile is only looked at.
        if self.file != self.looked:
            self.look()
            return
        self.verdict = self.verdict_of_file
        self.machine.probed(self.verdict, self.now)

    @rule()
    def recheck(self):
        self.verdict = "none"
        self.machine.recheck()

    @invariant()
    def state_is_what_the_model_says(self):
        waited = self.now - self.looked_since
        state = self.machine.state(self.now)
        if self.looked is None or not self.named:
            expected = FileState.ORPHAN if waited >= ORPHAN else FileState.SEEN
        elif self.verdict is None:
            expected = FileState.READY
        elif self.verdict is BROKEN or (self.verdict is CUT and waited >= ORPHAN):
            expected = FileState.QUARANTINED
        else:
            expected = FileState.SETTLING
        assert state is expected

    @invariant()
    def nothing_still_and_unprobed_is_forgotten(self):
        still = self.looked is not None and self.now - self.looked_since >= SETTLE
        if still and self.named and self.verdict == "none":
            assert self.machine.wants_probe(self.now)


SettleMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestSettle = SettleMachine.TestCase


def test_impatient_machine_probes_a_file_that_never_stands_still():
    machine = FileSettle(SettleTimes(2.0, 100.0, 1.0, impatient_seconds=10.0), 0.0)
    machine.refer(0.0)
    probes = []
    for second in range(40):
        machine.observe(second, second, float(second))
        if machine.wants_probe(float(second)):
            probes.append(second)
            machine.probed(None, float(second))
    assert probes == [10, 21, 32]
