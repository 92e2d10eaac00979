"""Engine internals: for those who tune or mend the daemon."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders

from deploy.grafana.panels import SESSION, WIDTH, board, curves

_THIRD = WIDTH // 3


def _quantile(share: str) -> str:
    rate = f"rate(streamrecon_worker_step_seconds_bucket{{{SESSION}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by (le) ({rate}))"


def engine_dashboard() -> builders.Dashboard:
    """Return the dashboard."""
    dashboard = board(
        "streamrecon-engine", "streamrecon: engine", "What goes on inside the worker, ingest and the wire."
    )
    for add in (_fold, _search, _durable, _wire, _processes):
        dashboard = add(dashboard)
    return dashboard


def _fold(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Folding"))
        .with_panel(
            curves(
                "Time of a mini-batch",
                "From the histogram of step times.",
                (_quantile("0.5"), "median"),
                (_quantile("0.95"), "95 of 100"),
                unit="s",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Poses scored for an image",
                "Over the whole band: in the last mini-batch, and on average.",
                (f"streamrecon_worker_evaluations_per_image{{{SESSION}}}", "last mini-batch"),
                (
                    f"rate(streamrecon_worker_pose_evaluations_total{{{SESSION}}}[$__rate_interval])"
                    f" / rate(streamrecon_worker_image_visits_total{{{SESSION}}}[$__rate_interval])",
                    "on average",
                ),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Images a second",
                "As the worker measures it, over its last mini-batches.",
                (f"streamrecon_worker_images_per_second{{{SESSION}}}", "images/s"),
                unit="suffix: /s",
                width=_THIRD,
                from_zero=True,
            )
        )
    )


def _search(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Search"))
        .with_panel(
            curves(
                "Temperature",
                "Of the annealed pose posterior; 1 once the search has settled.",
                (f"streamrecon_worker_temperature_ratio{{{SESSION}}}", "temperature"),
                unit="none",
                width=_THIRD,
            )
        )
        .with_panel(
            curves(
                "Coarse entropy",
                "Of the coarse pose posterior. Below the first line: settled. Above the second for long: lost.",
                (f"streamrecon_worker_coarse_entropy_nats{{{SESSION}}}", "entropy"),
                unit="suffix: nats",
                width=_THIRD,
                steps=((None, "green"), (1, "yellow"), (2.5, "red")),
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Band",
                "Finest Fourier shell in use.",
                (f"streamrecon_worker_k_max_shells{{{SESSION}}}", "shells"),
                unit="none",
                width=_THIRD,
                from_zero=True,
            )
        )
    )


def _durable(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Durability"))
        .with_panel(
            curves(
                "Not yet durable",
                "Batches folded since the last checkpoint: they are done again after a crash.",
                (f"streamrecon_worker_unacknowledged_batches{{{SESSION}}}", "batches"),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Time to write",
                "Of the last checkpoint and the last snapshot.",
                (f"streamrecon_worker_checkpoint_write_seconds{{{SESSION}}}", "checkpoint"),
                (f"streamrecon_worker_snapshot_write_seconds{{{SESSION}}}", "snapshot"),
                unit="s",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Size of a checkpoint",
                "It grows with the box, not with the session.",
                (f"streamrecon_worker_checkpoint_bytes{{{SESSION}}}", "checkpoint"),
                unit="bytes",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Batches delivered again",
                "Dropped because the checkpoint held them, and given back because a worker fell silent.",
                (f"increase(streamrecon_worker_batches_dropped_total{{{SESSION}}}[$__rate_interval])", "dropped"),
                (f"increase(streamrecon_ingest_leases_expired_total{{{SESSION}}}[$__rate_interval])", "lease over"),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Errors of the worker",
                "By kind; the session went on where it could.",
                (f"increase(streamrecon_worker_errors_total{{{SESSION}}}[$__rate_interval])", "{{kind}}"),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Scan of the watched folder",
                "Mean duration of a reconciling scan.",
                (
                    f"rate(streamrecon_ingest_scan_seconds_sum{{{SESSION}}}[$__rate_interval])"
                    f" / rate(streamrecon_ingest_scan_seconds_count{{{SESSION}}}[$__rate_interval])",
                    "scan",
                ),
                unit="s",
                width=_THIRD,
                from_zero=True,
            )
        )
    )


def _wire(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Wire"))
        .with_panel(
            curves(
                "Who is there",
                "Subscribers of the published stream, and workers of the feed.",
                (f"streamrecon_worker_subscribers{{{SESSION}}}", "subscribers"),
                (f"streamrecon_ingest_workers{{{SESSION}}}", "workers"),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Refused and dropped",
                "Connections refused by either half, and messages on the feed that could not be used.",
                (
                    f"sum(increase(streamrecon_ingest_peers_refused_total{{{SESSION}}}[$__rate_interval]))",
                    "by the feed",
                ),
                (
                    f"sum(increase(streamrecon_worker_peers_refused_total{{{SESSION}}}[$__rate_interval]))",
                    "by the published sockets",
                ),
                (
                    f"sum(increase(streamrecon_ingest_messages_dropped_total{{{SESSION}}}[$__rate_interval]))",
                    "messages",
                ),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Notices to people",
                "Of [notify], by channel and outcome.",
                (
                    f"increase(streamrecon_supervisor_notices_total{{{SESSION}}}[$__rate_interval])",
                    "{{channel}} {{outcome}}",
                ),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
    )


def _processes(dashboard: builders.Dashboard) -> builders.Dashboard:
    return (
        dashboard.with_row(builders.Row("Processes"))
        .with_panel(
            curves(
                "Memory",
                "In RAM; it should stand still over hours.",
                (f"streamrecon_worker_resident_memory_bytes{{{SESSION}}}", "worker"),
                (f"streamrecon_ingest_resident_memory_bytes{{{SESSION}}}", "ingest"),
                (f"streamrecon_supervisor_resident_memory_bytes{{{SESSION}}}", "supervisor"),
                unit="bytes",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "GPU memory",
                "0 for a worker without a GPU.",
                (f"streamrecon_worker_gpu_memory_used_bytes{{{SESSION}}}", "in use"),
                (f"streamrecon_worker_gpu_memory_total_bytes{{{SESSION}}}", "there is"),
                unit="bytes",
                width=_THIRD,
                from_zero=True,
            )
        )
        .with_panel(
            curves(
                "Restarts",
                "Times a half ended unexpectedly and was started again.",
                (f"streamrecon_supervisor_process_restarts_total{{{SESSION}}}", "{{process}}"),
                unit="locale",
                width=_THIRD,
                from_zero=True,
            )
        )
    )
