"""What a PromQL expression is about."""

import promql_parser


def metrics_of(expression):
    """Return the names of all metrics in an expression; raises ValueError if it cannot be parsed."""
    names = set()

    def visit(node):
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names
