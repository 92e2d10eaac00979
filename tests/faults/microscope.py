"""A session whose particles appear when the campaign says so: the faults set the pace, not the clock."""

import shutil

from tests.e2e.daemon import Session

PIXELS, PIXEL_SIZE = 32, 6.4
PER_MICROGRAPH = 25
INPUT = """
[input]
contrast = "protein_white"
"""
# nothing but new particles: the map depends on what came, not on when it was quiet
NO_VISITS = """
[refinement]
store_megabytes = 0
"""
# settled long before a session of this size would be, so that kept particles are visited again, also at its end
EARLY_VISITS = """
[engine]
settle_images = 200

[refinement]
final_sweeps = 3
"""
HURRIED = """
[snapshot]
every_images = 200
every_seconds = 2.0

[checkpoint]
every_seconds = 0.5
"""


class PacedSession(Session):
    """A session of a small box, whose micrographs lie ready and are moved in one by one.

    The stack comes first and its STAR after it, each by a rename, as upstream programs do. ``hurried`` sessions scan,
    save and publish far more often than they would beside an instrument, so that faults meet all of it.
    """

    def __init__(self, folder, particles, *, seed=1, more="", hurried=True, per_micrograph=PER_MICROGRAPH, snr=0.2):
        super().__init__(folder, seed=seed, more=(HURRIED if hurried else "") + INPUT + more)
        if hurried:
            text = self.config.read_text().replace("scan_seconds = 2.0", "scan_seconds = 0.5")
            text = text.replace("batch_wait_seconds = 2.0", "batch_wait_seconds = 0.2\nbatch_size = 25")
            self.config.write_text(text)
        self.particles, self.per_micrograph = particles, per_micrograph
        incoming, self.incoming = self.incoming, self.folder / "stage"
        try:
            self.simulate(
                *("--box", PIXELS, "--pixel-size", PIXEL_SIZE, "--snr", snr, "--seed", seed),
                *("--micrographs-of", per_micrograph, "--particles", particles),
            )
        finally:
            self.stage, self.incoming = self.incoming, incoming
        self._waiting = sorted(self.stage.rglob("*.mrcs"))
        self.manifest = next(self.stage.rglob("particles.star"))

    def deliver_all(self):
        """Move in all that is left, and the STAR that names everything once more."""
        self.deliver(self.micrographs_left)
        shutil.copyfile(self.manifest, self.incoming / self.manifest.relative_to(self.stage))

    @property
    def micrographs_left(self):
        return len(self._waiting)

    @property
    def particles_delivered(self):
        return self.particles - self.micrographs_left * self.per_micrograph

    def deliver(self, micrographs=1):
        """Move the next micrographs into the watched folder."""
        for _ in range(min(micrographs, len(self._waiting))):
            stack = self._waiting.pop(0)
            for path in (stack, stack.with_name(f"{stack.stem}_extract.star")):
                target = self.incoming / path.relative_to(self.stage)
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(f".{target.name}.part")
                shutil.copyfile(path, part)
                part.rename(target)
