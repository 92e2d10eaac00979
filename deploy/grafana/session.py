"""The session overview: for operators, from left to right what came in, how far the map is, what needs a person."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders

from deploy.grafana.panels import SESSION, board, curves, figure, name_of_series, timeline

_YES_NO = {"0": ("down", "red"), "1": ("up", "green")}
_IS = {"0": ("no", "transparent"), "1": ("yes", "blue")}


def session_dashboard() -> builders.Dashboard:
    """Return the dashboard."""
    dashboard = board("streamrecon-session", "streamrecon: session", "One session: input, map, and what is amiss.")
    for add in (_now, _particles, _map, _input, _host):
        dashboard = add(dashboard)
    return dashboard


def _now(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Now"))
        .with_panel(
            figure(
                "Daemon",
                "Up while both halves run and answer.",
                (f"min(streamrecon_supervisor_process_up{{{SESSION}}})", "both halves"),
                unit="none",
                words=_YES_NO,
            )
        )
        .with_panel(
            name_of_series(
                "Stage",
                "Of the reconstruction.",
                (f"streamrecon_worker_stage{{{SESSION}}} == 1", "{{stage}}"),
            )
        )
        .with_panel(
            figure(
                "Particles in the map",
                "Over all restarts of the session.",
                (f"streamrecon_worker_particles_seen{{{SESSION}}}", "particles"),
                unit="locale",
            )
        )
        .with_panel(
            figure(
                "Resolution",
                "Half-set FSC at 0.143. How honest it is: see the kind of halves below.",
                (f"streamrecon_worker_resolution_angstrom{{{SESSION}}}", "resolution"),
                unit="suffix: Å",
                decimals=1,
            )
        )
        .with_panel(
            figure(
                "Folded",
                "Images a second, over the last mini-batches.",
                (f"streamrecon_worker_images_per_second{{{SESSION}}}", "images/s"),
                unit="suffix: /s",
                decimals=0,
            )
        )
        .with_panel(
            figure(
                "Behind the microscope",
                "Age of the oldest particle that is ready and not yet folded.",
                (f"streamrecon_ingest_lag_seconds{{{SESSION}}}", "lag"),
                unit="s",
                steps=((None, "green"), (60, "yellow"), (300, "red")),
                decimals=0,
            )
        )
        .with_panel(
            figure(
                "Set aside",
                "Files and rows that wait for a person: streamrecon quarantine.",
                (f"sum(streamrecon_ingest_quarantine_open{{{SESSION}}})", "open"),
                unit="locale",
                steps=((None, "green"), (1, "yellow"), (20, "red")),
            )
        )
        .with_panel(
            figure(
                "Watched folder",
                "Whether watch.root is there.",
                (f"streamrecon_ingest_root_present{{{SESSION}}}", "there"),
                unit="none",
                words={"0": ("away", "red"), "1": ("there", "green")},
            )
        )
    )


def _particles(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Particles"))
        .with_panel(
            curves(
                "Rates",
                "What the microscope brings and what goes into the map.",
                (
                    f"rate(streamrecon_ingest_particles_ready_total{{{SESSION}}}[$__rate_interval])",
                    "from the microscope",
                ),
                (f"rate(streamrecon_worker_particles_folded_total{{{SESSION}}}[$__rate_interval])", "into the map"),
                unit="suffix: /s",
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Where they are",
                "ready waits for a batch, queued is in a batch, folded is in a durable checkpoint.",
                (f"streamrecon_ingest_particles{{{SESSION}}}", "{{state}}"),
                unit="locale",
                stacked=True,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Behind the microscope",
                "An alert is raised after five minutes above the line.",
                (f"streamrecon_ingest_lag_seconds{{{SESSION}}}", "oldest particle not folded"),
                unit="s",
                steps=((None, "green"), (300, "red")),
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Queue",
                "Batches that wait for a worker, and workers that are there.",
                (f"streamrecon_ingest_queue_batches{{{SESSION}}}", "batches"),
                (f"streamrecon_ingest_workers{{{SESSION}}}", "workers"),
                unit="locale",
                from_zero=True,
            )
        )
    )


def _map(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Map"))
        .with_panel(
            curves(
                "Resolution",
                "Half-set FSC at 0.143; it jumps up where independent halves begin, because it becomes honest there.",
                (f"streamrecon_worker_resolution_angstrom{{{SESSION}}}", "resolution"),
                (f"streamrecon_worker_resolution_masked_angstrom{{{SESSION}}}", "under a mask, corrected"),
                unit="suffix: Å",
            )
        )
        .with_panel(
            curves(
                "Views",
                "How evenly the views lie: efficiency (Naydenova and Russo), and area ratio of conical FSC. 1 is best.",
                (f"streamrecon_worker_angular_efficiency_ratio{{{SESSION}}}", "efficiency"),
                (f"streamrecon_worker_conical_fsc_area_ratio{{{SESSION}}}", "conical FSC area ratio"),
                unit="percentunit",
                from_zero=True,
            )
        )
        .with_panel(
            timeline(
                "Stage",
                "What the reconstruction was doing.",
                (f"streamrecon_worker_stage{{{SESSION}}}", "{{stage}}"),
                words=_IS,
            )
        )
        .with_panel(
            curves(
                "How well the images fit",
                "Mean log likelihood ratio of an image to noise alone. Falling: worse particles, or none.",
                (f"streamrecon_worker_log_evidence_nats{{{SESSION}}}", "log evidence"),
                unit="suffix: nats",
            )
        )
        .with_panel(
            curves(
                "How certain the poses are",
                "Poses that an image's posterior is spread over; near 1 they are certain.",
                (f"streamrecon_worker_effective_sample_size{{{SESSION}}}", "effective sample size"),
                unit="none",
                from_zero=True,
            )
        )
        .with_panel(
            timeline(
                "Kind of halves",
                "common: halves posed on one map, optimistic. gold_standard: each half on its own, an honest FSC.",
                (f"streamrecon_worker_fsc_kind{{{SESSION}}}", "{{kind}}"),
                words=_IS,
            )
        )
        .with_panel(
            curves(
                "Images that fit",
                "Share of the images that the map explains better than junk; empty until it can be judged.",
                (f"streamrecon_worker_inlier_ratio{{{SESSION}}}", "inliers"),
                unit="percentunit",
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Particles in the map",
                "Over all restarts of the session.",
                (f"streamrecon_worker_particles_seen{{{SESSION}}}", "particles"),
                unit="locale",
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Snapshots",
                "Maps that were written and published.",
                (f"increase(streamrecon_worker_snapshots_total{{{SESSION}}}[$__rate_interval])", "snapshots"),
                unit="locale",
                from_zero=True,
            )
        )
    )


def _input(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Input"))
        .with_panel(
            curves(
                "Files that are not ready",
                "Many settling: a slow writer. Orphans: a stack that no list names, or the reverse.",
                (f'streamrecon_ingest_files{{{SESSION}, state!="ready"}}', "{{type}} {{state}}"),
                unit="locale",
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Set aside, by kind of error",
                "Files and rows that wait for a person: streamrecon quarantine.",
                (f"streamrecon_ingest_quarantine_open{{{SESSION}}}", "{{kind}}"),
                unit="locale",
                stacked=True,
                from_zero=True,
            )
        )
    )


def _host(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Host"))
        .with_panel(
            curves(
                "Room on the disks",
                "For output_dir and watch.root.",
                (f"streamrecon_supervisor_filesystem_free_bytes{{{SESSION}}}", "{{folder}}"),
                unit="bytes",
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "What a crash would cost",
                "Time since the last durable checkpoint; it grows, harmlessly, while nothing is folded.",
                (f"streamrecon_worker_checkpoint_age_seconds{{{SESSION}}}", "age of the checkpoint"),
                unit="s",
                from_zero=True,
            )
        )
    )
