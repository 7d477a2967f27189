"""``meshctl observe``: what is written where, and what is left alone."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import promtool
import pytest
import yaml

SCRAPED = "metrics: {from: [10.0.0.5/32]}\n"


@pytest.fixture
def meshctl(tmp_path: Path) -> commands.Run:
    """In the folder of a mesh of one host, ``one``, that Prometheus may scrape."""
    run = commands.mesh_in(tmp_path, "http://127.0.0.1:18500", commands.WEB_AND_API)
    change(tmp_path, lambda text: text + SCRAPED)
    return run


def change(folder: Path, edit: Callable[[str], str]) -> None:
    path = folder / "inventory.yaml"
    path.write_text(edit(path.read_text()))


def existing(text: str) -> str:
    return text.replace("mode: embedded,", "mode: existing, token_file: /etc/consul.token,")


def job_of(text: str) -> Any:
    (job,) = yaml.safe_load(text)
    return job


def test_prometheus_gets_a_configuration_that_it_takes(
    meshctl: commands.Run, tmp_path: Path
) -> None:
    done = meshctl("observe", "prometheus")
    assert done.stdout.split() == [
        "prometheus/prometheus.yml",
        "prometheus/meshctl-recording.yml",
        "prometheus/meshctl-alerts.yml",
    ]
    assert done.stderr == ""
    path = tmp_path / "prometheus" / "prometheus.yml"
    said = promtool.promtool("check", "config", path, asks_consul=True)
    assert "2 rule files found" in said
    again = meshctl("observe", "prometheus", "-o", "json")
    assert len(json.loads(again.stdout)["files"]) == 3


def test_it_asks_the_inventorys_consul_for_this_mesh_alone(meshctl: commands.Run) -> None:
    job = job_of(meshctl("observe", "prometheus", "--scrape-only").stdout)
    assert job["job_name"] == "mesh"
    assert job["consul_sd_configs"] == [{"server": "127.0.0.1:18500", "datacenter": "dc1"}]
    assert job["relabel_configs"][0] == {
        "source_labels": ["__meta_consul_service_metadata_mesh_trust_domain"],
        "regex": r"mesh\.test",
        "action": "keep",
    }


def test_another_agent_can_be_named(meshctl: commands.Run) -> None:
    words = ("observe", "prometheus", "--scrape-only", "--consul", "consul.example:8500")
    (asked,) = job_of(meshctl(*words).stdout)["consul_sd_configs"]
    assert asked["server"] == "consul.example:8500"


def test_the_scrape_job_alone_is_printed_and_nothing_is_written(
    meshctl: commands.Run, tmp_path: Path
) -> None:
    meshctl("observe", "prometheus", "--scrape-only")
    assert not (tmp_path / "prometheus").exists()


def test_hosts_are_named_for_who_cannot_ask_consul(meshctl: commands.Run, tmp_path: Path) -> None:
    change(
        tmp_path,
        lambda text: text.replace("    transport: local", "    zone: a\n    transport: local"),
    )
    job = job_of(meshctl("observe", "prometheus", "--scrape-only", "--static").stdout)
    labels = {"host": "one", "datacenter": "dc1", "zone": "a"}
    assert job["static_configs"] == [{"targets": ["127.0.0.1:15090"], "labels": labels}]
    meshctl("observe", "prometheus", "--static")
    promtool.promtool("check", "config", tmp_path / "prometheus" / "prometheus.yml")


def test_a_token_is_a_file_beside_the_configuration_and_is_asked_for(
    meshctl: commands.Run, tmp_path: Path
) -> None:
    change(tmp_path, existing)
    done = meshctl("observe", "prometheus")
    assert "prometheus/consul.token" in done.stderr
    assert "may read services and nodes" in done.stderr
    assert not (tmp_path / "prometheus" / "consul.token").exists()
    job = job_of(meshctl("observe", "prometheus", "--scrape-only").stdout)
    assert job["consul_sd_configs"][0]["authorization"] == {"credentials_file": "consul.token"}


def test_a_mesh_that_nobody_may_scrape_says_so(meshctl: commands.Run, tmp_path: Path) -> None:
    change(tmp_path, lambda text: text.replace(SCRAPED, ""))
    done = meshctl("observe", "prometheus")
    assert "no proxy lets itself be scraped yet" in done.stderr
    assert "metrics: {from:" in done.stderr


def test_somebody_elses_file_is_not_replaced_and_nothing_else_is_written(
    meshctl: commands.Run, tmp_path: Path
) -> None:
    theirs = tmp_path / "prometheus" / "prometheus.yml"
    theirs.parent.mkdir()
    theirs.write_text("global: {}\n")
    done = meshctl("observe", "prometheus", expect=3)
    assert "--scrape-only" in done.stderr
    assert theirs.read_text() == "global: {}\n"
    assert [path.name for path in theirs.parent.iterdir()] == ["prometheus.yml"]


def test_objectives_are_the_operators(meshctl: commands.Run, tmp_path: Path) -> None:
    meshctl("observe", "prometheus", "--success", "99", "--latency", "250ms")
    text = (tmp_path / "prometheus" / "meshctl-alerts.yml").read_text()
    assert "ratio_rate1h > 0.144 " in text
    assert "p99_rate5m > 250 " in text


@pytest.mark.parametrize(
    ("option", "value"),
    [("--latency", "250"), ("--latency", "0"), ("--consul", "http://a:1"), ("--consul", "a")],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    meshctl: commands.Run, tmp_path: Path, option: str, value: str
) -> None:
    done = meshctl("observe", "prometheus", option, value, expect=2)
    assert option in done.stderr
    assert not (tmp_path / "prometheus").exists()


def test_dashboards_are_written_without_any_inventory(
    meshctl: commands.Run, tmp_path: Path
) -> None:
    os.unlink(tmp_path / "inventory.yaml")
    done = meshctl("observe", "grafana", "--dir", "boards")
    paths = [tmp_path / line for line in done.stdout.split()]
    assert len(paths) == 3
    for path in paths:
        assert json.loads(path.read_text())["panels"]
    meshctl("observe", "grafana", "--dir", "boards")
