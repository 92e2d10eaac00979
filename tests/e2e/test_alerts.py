"""Every alert fires in a fault played to a real Prometheus, clears when the fault is over, and no other fires."""

import pytest

from tests.e2e.faults import Scene, stage
from tests.e2e.prometheus import faster, needs_prometheus, running, write_configuration, write_targets
from tests.unit.deploy.test_prometheus import alert_names

pytestmark = [pytest.mark.slow, pytest.mark.alone, needs_prometheus]
# an hour of the rules passes in 24 s
FACTOR = 150
SCRAPE_SECONDS = 0.4
WELL = "well"
ABSENT = "StreamreconAbsent"
# at this pace two pages that a busy machine serves too late are a daemon that is down
DOWN = "StreamreconDown"
# halves that agree less than before also do not get better
COMPANIONS = {"StreamreconHalfSetsDiverge": {"StreamreconResolutionStalls"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5m", "2000ms"),
        ("rate(x[15m])", "rate(x[6000ms])"),
        ("min_over_time(a[30m] offset 30m) > 5", "min_over_time(a[12000ms] offset 12000ms) > 5"),
        ("x offset 15m >= 0", "x offset 6000ms >= 0"),
        ("instance:a:rate5m > 300 and 4 * 3600", "instance:a:rate5m > 300 and 4 * 3600"),
    ],
)
def test_the_clock_of_the_rules_can_be_sped_up(text, expected):
    assert faster(text, FACTOR) == expected


def test_each_alert_fires_in_its_fault_and_clears(tmp_path):
    alerts = set(alert_names()) - {ABSENT}
    scenes = {name: Scene() for name in (WELL, *sorted(alerts))}
    seen = set()
    with stage(scenes) as address:
        targets = {name: (address, f"/{name}") for name in scenes}
        config = write_configuration(tmp_path, targets, scrape_seconds=SCRAPE_SECONDS, factor=FACTOR)
        with running(tmp_path, config) as prometheus:

            def firing():
                now = prometheus.firing()
                seen.update(now)
                return now

            def history():
                counted = prometheus.query('min(count_over_time(up{job="streamrecon"}[1m]))')
                return counted and counted[0][1] >= 10 and len(prometheus.query("up == 1")) == len(scenes)

            prometheus.wait_for(history)
            assert {alert for alert, _ in firing()} <= {DOWN}

            for name in alerts:
                scenes[name].fault = name
            left = set(alerts)

            def all_fired():
                left.difference_update(alert for alert, instance in firing() if alert == instance)
                return not left

            prometheus.wait_for(all_fired)

            for name in alerts:
                scenes[name].fault = ""
            prometheus.wait_for(lambda: not firing())

            write_targets(tmp_path, {})
            prometheus.wait_for(lambda: (ABSENT, "") in firing())
            write_targets(tmp_path, targets)
            prometheus.wait_for(lambda: not firing())

    # each in its own fault, the well session in none
    stray = {(a, i) for a, i in seen if a not in {i, DOWN, *COMPANIONS.get(i, ())}} - {(ABSENT, "")}
    assert stray == set()
