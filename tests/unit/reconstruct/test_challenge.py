"""When the start that went on is doubted, and how often."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from streamrecon.reconstruct.challenge import AGREEING, Challenges
from streamrecon.reconstruct.results import EngineStatus

SETTLE = 1000
STATUS = EngineStatus(
    stage="refining", particles_seen=5000, image_visits=5000, step=50, k_max=20, temperature=1.0,
    effective_sample_size=2.0, coarse_entropy=0.2, resolution_angstrom=9.0, fsc_kind="gold_standard",
    step_seconds=0.1, images_per_second=100.0, evaluations_per_image=100.0, log_evidence=80.0, inlier_share=0.95,
)  # fmt: skip


def noted(challenges, status, images, *, down=True, batch=100):
    for _ in range(images // batch):
        challenges.note(status, batch, clock_is_down=down)
    return challenges


def test_a_start_without_signs_is_left_alone():
    assert noted(Challenges(), STATUS, 50_000).doubt(STATUS, SETTLE, 20) == ""
    assert Challenges(agreement=0.9).doubt(STATUS, SETTLE, 20) == ""


def test_starts_that_ended_in_different_maps_are_doubted():
    assert "0.40" in Challenges(agreement=0.4).doubt(STATUS, SETTLE, 20)
    assert Challenges(agreement=AGREEING + 0.01).doubt(STATUS, SETTLE, 20) == ""


def test_a_search_that_does_not_settle_is_doubted_once_its_clock_is_down():
    searching = replace(STATUS, stage="searching", coarse_entropy=3.0, inlier_share=math.nan)
    assert noted(Challenges(), searching, 10_000, down=False).doubt(searching, SETTLE, 5) == ""
    assert noted(Challenges(), searching, 4_000).doubt(searching, SETTLE, 5) == ""
    assert "3.0 nats" in noted(Challenges(), searching, 4_100).doubt(searching, SETTLE, 5)


def test_images_that_the_map_does_not_explain_are_a_sign_unless_two_starts_agree():
    poor = replace(STATUS, inlier_share=0.3)
    assert "30%" in noted(Challenges(), poor, 1100).doubt(poor, SETTLE, 20)
    assert noted(Challenges(agreement=0.95), poor, 1100).doubt(poor, SETTLE, 20) == ""
    broken_off = noted(noted(Challenges(), poor, 900), STATUS, 100)
    assert noted(broken_off, poor, 900).doubt(poor, SETTLE, 20) == ""


def test_a_band_that_rests_early_is_a_sign():
    assert "shell 7" in Challenges().doubt(STATUS, SETTLE, 7)


def test_challenges_are_few_and_far_between():
    challenges, visits = Challenges(agreement=0.3), 5000
    for expected in (1, 2):
        reason = challenges.doubt(replace(STATUS, image_visits=visits), SETTLE, 20)
        assert reason
        challenges.begin(reason, visits)
        assert challenges.count == expected
        assert challenges.doubt(replace(STATUS, image_visits=visits + 50_000), SETTLE, 20) == ""  # one at a time
        assert not challenges.too_old(visits + 6 * SETTLE, SETTLE)
        assert challenges.too_old(visits + 6 * SETTLE + 1, SETTLE)
        challenges.end("it explains the images no better", visits + 6000)
        assert challenges.doubt(replace(STATUS, image_visits=visits + 6000 + 3 * SETTLE), SETTLE, 20) == ""
        visits += 6000 + 4 * SETTLE
    assert challenges.doubt(replace(STATUS, image_visits=10**7), SETTLE, 20) == ""


@pytest.mark.parametrize("agreement", [math.nan, 0.8])
def test_a_checkpoint_holds_all_of_it(agreement):
    challenges = Challenges(agreement=agreement, unsettled=300)
    challenges.begin("why", 700)
    again = Challenges.restored(json.loads(json.dumps(challenges.state(), allow_nan=False)))
    assert again.state() == challenges.state()
    assert math.isnan(again.agreement) == math.isnan(agreement)
    assert again.running
