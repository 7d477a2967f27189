"""All alerting rules, in groups."""

from meshctl.observe.alerting import Alert, AlertGroup, Objectives
from meshctl.observe.proxy_alerts import of_identities, of_proxies
from meshctl.observe.service_alerts import of_services, of_upstreams


def alert_groups(objectives: Objectives) -> tuple[AlertGroup, ...]:
    return (
        AlertGroup(name="meshctl-service-alerts", alerts=tuple(of_services(objectives))),
        AlertGroup(name="meshctl-upstream-alerts", alerts=tuple(of_upstreams())),
        AlertGroup(name="meshctl-identity-alerts", alerts=tuple(of_identities())),
        AlertGroup(name="meshctl-proxy-alerts", alerts=tuple(of_proxies())),
    )


def alerts(objectives: Objectives) -> tuple[Alert, ...]:
    return tuple(alert for group in alert_groups(objectives) for alert in group.alerts)
