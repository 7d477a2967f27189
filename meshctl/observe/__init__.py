"""For an operator's own Prometheus and Grafana: configuration, rules and dashboards as text. Pure.

All of it is built from the names in ``terms``, so that a metric that is renamed is renamed
everywhere, and a test compares them with what a proxy really exposes.
"""
