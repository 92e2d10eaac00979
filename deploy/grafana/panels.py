"""The few kinds of panels that the dashboards are made of, all looking alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# every query is of the one session that is chosen at the top
SESSION = 'instance="$instance"'
WIDTH = 24
TAG = "streamrecon"

# expression, and how its series are called: "{{label}}" or words
Query: TypeAlias = tuple[str, str]
# from which value on which colour; the first has no lower end
Steps: TypeAlias = Sequence[tuple[float | None, str]]


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .datasource(DATASOURCE)
        .expr(expression)
        .legend_format(legend)
        .format(PromQueryFormat.TIME_SERIES)
        .range()
        .ref_id(chr(ord("A") + number))
        for number, (expression, legend) in enumerate(queries)
    ]


def _thresholds(steps: Steps) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=color) for value, color in steps])
    )


def figure(
    title: str,
    meaning: str,
    query: Query,
    *,
    unit: str,
    steps: Steps = ((None, "blue"),),
    words: dict[str, tuple[str, str]] | None = None,
    decimals: int | None = None,
) -> stat.Panel:
    """Return one large number; ``words`` are shown instead of values: value -> (word, colour)."""
    panel = (
        stat.Panel()
        .title(title)
        .description(meaning)
        .datasource(DATASOURCE)
        .unit(unit)
        .no_value("-")
        .span(WIDTH // 8)
        .height(4)
        .thresholds(_thresholds(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.NONE)
    )
    if words is not None:
        panel = panel.mappings(
            [ValueMap(options={value: ValueMappingResult(text=t, color=c) for value, (t, c) in words.items()})]
        )
    if decimals is not None:
        panel = panel.decimals(decimals)
    for target in _targets([query]):
        panel = panel.with_target(target)
    return panel


def name_of_series(title: str, meaning: str, query: Query) -> stat.Panel:
    """Return a panel that shows the name of the one series that is there."""
    return (
        figure(title, meaning, query, unit="none")
        .text_mode(common_models.BigValueTextMode.NAME)
        .color_mode(common_models.BigValueColorMode.NONE)
    )


def curves(
    title: str,
    meaning: str,
    *queries: Query,
    unit: str,
    width: int = WIDTH // 2,
    steps: Steps | None = None,
    from_zero: bool = False,
    stacked: bool = False,
) -> timeseries.Panel:
    """Return curves over time; ``steps`` draw lines where it gets bad."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(meaning)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(8)
        .fill_opacity(25 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if steps is not None:
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.LINE)
        )
    if from_zero:
        panel = panel.min(0)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def timeline(title: str, meaning: str, query: Query, *, words: dict[str, tuple[str, str]]) -> statetimeline.Panel:
    """Return bars over time, one a series, coloured by value."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(meaning)
        .datasource(DATASOURCE)
        .span(WIDTH // 2)
        .height(8)
        .show_value(common_models.VisibilityMode.NEVER)
        .mappings([ValueMap(options={v: ValueMappingResult(text=t, color=c) for v, (t, c) in words.items()})])
    )
    for target in _targets([query]):
        panel = panel.with_target(target)
    return panel


def board(uid: str, title: str, meaning: str) -> builders.Dashboard:
    """Return an empty dashboard with the choice of Prometheus and of session, and links to the others."""
    return (
        builders.Dashboard(title)
        .uid(uid)
        .description(meaning)
        .tags([TAG])
        .refresh("10s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(
            builders.DashboardLink("streamrecon")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            builders.QueryVariable("instance")
            .label("Session")
            .datasource(DATASOURCE)
            .query({"query": "label_values(streamrecon_supervisor_process_up, instance)", "refId": "instance"})
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
        )
        .annotation(
            builders.AnnotationQuery()
            .name("Alerts")
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color("red")
            .expr(f'ALERTS{{{SESSION}, alertstate="firing"}}')
        )
    )
