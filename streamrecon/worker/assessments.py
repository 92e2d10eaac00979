"""The worker loop's side of assessments: hand in snapshots, publish what comes back, tell what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from streamrecon.config.model import Config
from streamrecon.monitor.metrics import WorkerMetrics
from streamrecon.reconstruct.results import Snapshot
from streamrecon.transport.publisher import Publisher
from streamrecon.worker.assessing import FILE_NAME, Assessed, SnapshotAssessor
from streamrecon.worker.assessor import Assessor
from streamrecon.worker.session_history import SessionHistory
from streamrecon.worker.tallies import Told

# how long the end of a session waits for its last assessment
FINISH_SECONDS = 30.0


class Tell(Protocol):
    """Tells people and programs of something."""

    def __call__(self, kind: str, text: str, **fields: str | int | float) -> None:
        """Log it and publish it as an event."""


class Assessments:
    """Everything the loop needs; every method returns at once but `finish`, and none raises what an assessment raised.

    Parameters
    ----------
    config : Config
    folder : Path
        Of the snapshots.
    publisher : Publisher
    metrics : WorkerMetrics
    tell : Tell
    """

    def __init__(self, config: Config, folder: Path, publisher: Publisher, metrics: WorkerMetrics, tell: Tell) -> None:
        self._config = config
        self._folder = folder
        self._publisher = publisher
        self._metrics = metrics
        self._tell = tell
        self._assessor: Assessor | None = None
        self._told_failure = ""
        self._told_symmetry = config.assess.symmetry

    def submit(self, snapshot: Snapshot, told: Told) -> None:
        """Have a snapshot assessed, if that is switched on."""
        if not self._config.assess.enabled:
            return
        if self._assessor is None:
            history = SessionHistory.read(self._folder / FILE_NAME, snapshot.status.particles_seen)
            diameter = self._config.engine.particle_diameter_angstrom
            assess = SnapshotAssessor(self._config.assess, diameter, history)
            self._assessor = Assessor(assess, self._folder, self._config.assess.every_seconds)
        self._assessor.submit(snapshot, told)

    def poll(self) -> None:
        """Publish an assessment that has become ready."""
        if self._assessor is None:
            return
        try:
            found = self._assessor.poll()
        except Exception as error:
            self._failed(error)
            return
        if found is not None:
            self._publish(found)

    def finish(self) -> None:
        """Publish the last snapshot's assessment, waiting a while for it."""
        if self._assessor is None:
            return
        for found in self._assessor.finish(FINISH_SECONDS):
            if isinstance(found, Exception):
                self._failed(found)
            else:
                self._publish(found)

    def close(self) -> None:
        """Begin nothing more."""
        if self._assessor is not None:
            self._assessor.close()

    def _publish(self, found: Assessed) -> None:
        self._told_failure = ""
        self._publisher.publish_assessment(found.assessment, found.snapshot.status)
        self._metrics.assessed(found.assessment)
        symmetry = found.assessment.symmetry
        # a group that comes and goes with the noise is told when it comes, once
        if symmetry is not None and symmetry.group not in ("C1", self._told_symmetry):
            self._told_symmetry = symmetry.group
            self._tell("symmetry", symmetry.note, group=symmetry.group, correlation=symmetry.correlation)

    def _failed(self, error: Exception) -> None:
        """Count it, and tell it once in a row: the next snapshot may meet the same."""
        self._metrics.error(error)
        text = f"the snapshot could not be assessed: {error}"
        if text != self._told_failure:
            self._told_failure = text
            self._tell("assessment_failed", text)
