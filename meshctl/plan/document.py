"""A plan as plain data, for ``-o json``: what is shown of it and nothing else."""

from typing import Any

from meshctl.plan.model import HostPlan, Plan, Step


def to_document(plan: Plan) -> dict[str, Any]:
    return {
        "summary": plan.summary,
        "is_empty": plan.is_empty,
        "push_bytes": plan.push_bytes,
        "warnings": list(plan.warnings),
        "before": [_step(step) for step in plan.before],
        "hosts": [_host(host) for host in plan.hosts],
        "between": [_step(step) for step in plan.between],
        "after": [_step(step) for step in plan.after],
    }


def _host(host: HostPlan) -> dict[str, Any]:
    return {
        "host": host.host,
        "address": host.address,
        "verdict": str(host.verdict),
        "steps": [_step(step) for step in host.steps],
        "findings": [
            {"code": str(finding.code), "message": finding.message, "fix": finding.fix}
            for finding in host.findings
        ],
        "error": host.error,
        "hint": host.hint,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "action": str(step.action),
        "phase": int(step.phase),
        "title": step.title,
        "why": step.why,
        "details": list(step.details),
        "precondition": step.precondition,
        "push_bytes": step.push_bytes,
    }
