"""What PromQL expressions ask for, by a real parser: metrics, and the labels that each has to have."""

import re

import promql_parser


def written_out(expr):
    """The expression as Grafana sends it where all jobs, instances and cameras are chosen."""
    return re.sub(r"\$(job|instance|camera)\b", ".*", expr.replace("$__rate_interval", "1m"))


def asked_for(expr, *told):
    """Pairs of a metric and a label that it must have.

    Args:
        expr: Of a rule or a panel.
        *told: Texts beside it, such as a legend or an annotation, whose labels its result must have.
    """
    named = re.findall(r"\{\{ *(?:\$labels\.)?(\w+) *\}\}", " ".join(told))
    return set(_walk(promql_parser.parse(written_out(expr)), frozenset(named)))


def _walk(node, wanted):
    match node:
        case promql_parser.VectorSelector():
            # Each has a name, so that no metric is left without a pair.
            yield from (
                (node.name, label) for label in {"__name__", *wanted, *(one.name for one in node.matchers.matchers)}
            )
        case promql_parser.MatrixSelector():
            yield from _walk(node.vector_selector, wanted)
        case promql_parser.AggregateExpr():
            kept = frozenset(node.modifier.labels if node.modifier else ())
            assert wanted <= kept, f"{sorted(wanted - kept)} are not kept by {node}"
            yield from _walk(node.expr, kept)
        case promql_parser.BinaryExpr():
            matching = node.modifier.matching if node.modifier else None
            on = frozenset(matching.labels if matching else ())
            yield from _walk(node.lhs, wanted | on)
            yield from _walk(node.rhs, on or wanted)
        case promql_parser.Call():
            for argument in node.args:
                yield from _walk(argument, wanted | {"le"} if node.func.name == "histogram_quantile" else wanted)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _walk(node.expr, wanted)
