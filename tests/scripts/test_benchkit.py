"""The parts of the benchmark that can be wrong without anybody noticing: statistics and report."""

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchkit import (
    chart,
    command,
    figures,
    load,
    machine,
    observability,
    processes,
    profile,
    report,
    tables,
    targets,
)
from benchkit.backend import BODY_BYTES, Backend, body
from benchkit.contestants import Group, Pair
from benchkit.figures import Metric, Sample, Spread
from benchkit.rows import MULTIPLEXED_ROWS, OBSERVABILITY_ROWS, ROWS, SCALE_ROWS
from benchkit.turn import PHASES, Bench, Effort, Measured, Pace, free_ports

CPU = Metric.CPU_US_PER_REQUEST


def sample(
    number: int, name: str, value: float | None = None, *faults: str, **more: float
) -> Sample:
    found = {Metric(key): figure for key, figure in more.items()}
    if value is not None:
        found[CPU] = value
    return Sample(contestant=name, round=number, figures=found, faults=faults)


def a_run(samples: Sequence[Sample], names: Sequence[str] = ("meshctl", "envoy")) -> report.Run:
    return report.Run(
        date="2025-01-02 03:04 UTC",
        command="scripts/bench --rounds 3",
        rounds=3,
        duration_s=8.0,
        connections=32,
        tcp_connections=4,
        rate_per_s=3000.0,
        entrants=[
            report.Entrant(
                name=name,
                version=f"{name}-version",
                group=Group.BARE if name.endswith(Group.BARE) else Group.FULL,
                features=[f"what {name} does"],
                omissions=[f"what {name} cannot"],
            )
            for name in names
        ],
        tools={"wrk": "4.1.0"},
        facts={"kernel": "6.1"},
        samples=samples,
    )


# figures


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert figures.spread([5.0, 1.0, 3.0]) == Spread(median=3.0, low=1.0, high=5.0, count=3)


def test_nothing_measured_is_no_figure_rather_than_zero() -> None:
    assert figures.spread([]) is None
    assert figures.of([sample(1, "envoy", None, "http: 3 x read")], "envoy", CPU) is None


def test_a_round_with_a_fault_is_left_out_of_the_median_and_listed() -> None:
    samples = [
        sample(1, "meshctl", 10.0),
        sample(2, "meshctl", None, "http: 1 x status"),
        sample(3, "meshctl", 20.0),
    ]
    assert figures.of(samples, "meshctl", CPU) == Spread(median=15.0, low=10.0, high=20.0, count=2)
    assert figures.faults(samples) == ((2, "meshctl", "http: 1 x status"),)


def test_a_ratio_is_formed_within_each_round_before_the_median_is_taken() -> None:
    # The machine is twice as slow in round 2 and four times in round 3, for both.
    samples = [
        sample(1, "meshctl", 50.0),
        sample(1, "envoy", 100.0),
        sample(2, "envoy", 200.0),
        sample(2, "meshctl", 100.0),
        sample(3, "meshctl", 240.0),
        sample(3, "envoy", 400.0),
    ]
    assert figures.ratio(samples, "meshctl", "envoy", CPU) == Spread(
        median=0.5, low=0.5, high=0.6, count=3
    )


def test_a_ratio_leaves_out_rounds_in_which_either_side_has_no_figure() -> None:
    samples = [
        sample(1, "meshctl", 50.0),
        sample(2, "meshctl", 50.0),
        sample(2, "envoy", 100.0),
        sample(3, "envoy", 100.0),
        sample(4, "meshctl", 50.0),
        sample(4, "envoy", 0.0),
    ]
    assert figures.ratio(samples, "meshctl", "envoy", CPU) == Spread(
        median=0.5, low=0.5, high=0.5, count=1
    )
    assert figures.ratio(samples, "haproxy", "envoy", CPU) is None


def test_the_order_rotates_so_that_everybody_is_first_once() -> None:
    names = ("a", "b", "c")
    orders = [figures.order(names, number) for number in (1, 2, 3, 4)]
    assert orders == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c")]
    assert figures.order((), 5) == ()


# what /proc says


def test_cpu_time_is_counted_behind_a_name_with_blanks_and_parentheses() -> None:
    stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 9 8 7 6 300 40 5 6 20 0 1 0 77 1 2"
    assert processes.cpu_ticks(stat) == 340


def test_memory_is_read_by_its_exact_key() -> None:
    rollup = (
        "Rss:               20480 kB\nPss:               10240 kB\nPss_Dirty:          512 kB\n"
    )
    assert processes.rollup_mib(rollup, "Rss") == 20.0
    assert processes.rollup_mib(rollup, "Pss") == 10.0
    assert processes.rollup_mib(rollup, "Swap") == 0.0


def test_a_busy_core_counts_everything_but_idling_and_waiting() -> None:
    stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu1 1 2 4 1000 2000 8 16 32 0 0\ncpu11 5 5 5 5 5 5 5 5 5 5\n"
    assert machine.busy_ticks(stat, 1) == 63
    with pytest.raises(ValueError, match="core 2"):
        machine.busy_ticks(stat, 2)


@pytest.mark.parametrize(
    ("cpulist", "count"), [("0\n", 1), ("0,4", 2), ("0-1", 2), ("0-1,8-9", 4), ("", 1)]
)
def test_logical_processors_of_a_physical_core_are_counted(cpulist: str, count: int) -> None:
    assert machine.siblings(cpulist) == count


def test_the_processor_is_named_or_unknown() -> None:
    assert machine.processor_name("processor : 0\nmodel name\t: Some  CPU 9\n") == "Some CPU 9"
    assert machine.processor_name("processor : 0\n") == "unknown"


def test_machine_facts_name_no_host() -> None:
    facts = machine.facts(machine.observe("CPython 3.11"))
    assert os.uname().nodename not in facts
    assert "kernel" in facts
    assert facts["kernel"].startswith(os.uname().release)


# wrk


def answer(requests: int = 100, **errors: int) -> str:
    counted = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0) | errors
    return "Running 1s test\n" + json.dumps(
        {
            "requests": requests,
            "bytes": 2048,
            "duration_us": 2_000_000,
            "p50_us": 500,
            "p99_us": 1500,
            "errors": counted,
        }
    )


def test_an_answer_of_wrk_is_read_in_the_units_of_the_report() -> None:
    outcome = load.parse(answer())
    assert outcome == load.Outcome(
        succeeded=100,
        failures=(),
        received_bytes=2048,
        duration_s=2.0,
        p50_ms=0.5,
        p99_ms=1.5,
    )


def test_error_statuses_are_failures_and_not_successes() -> None:
    outcome = load.parse(answer(100, status=7, read=2))
    assert outcome.succeeded == 93
    assert outcome.failures == ("2 x read", "7 x status")


@pytest.mark.parametrize("output", ["", "no json", '{"requests": 1}', "{", '{"errors": []}'])
def test_an_answer_that_is_not_whole_is_refused(output: str) -> None:
    with pytest.raises(processes.Failed, match="cannot be read"):
        load.parse(output)


def test_the_pause_offers_the_rate_that_was_asked_for() -> None:
    pause = load.pause_for(2000.0, 32)
    assert (pause.low_ms + pause.high_ms) / 2 == 16
    assert load.pause_for(1e9, 1).low_ms == 1


# a go


class Wrk(load.Load):
    """Counts what it is told to count."""

    def __init__(self, **errors: int) -> None:
        self._outcome = load.parse(answer(100, **errors))

    def run(
        self,
        url: str,
        *,
        connections: int,
        duration_s: float,
        pause: load.Pause | None = None,
        is_varied: bool = False,
    ) -> load.Outcome:
        return self._outcome


def under_load(tmp_path: Path, group: processes.Group, wrk: Wrk) -> Measured:
    core = min(os.sched_getaffinity(0))
    client, server = (
        group.add(processes.Process(name, ["sleep", "60"], core=core, log=tmp_path / name))
        for name in ("client", "server")
    )
    site = Bench(
        directory=tmp_path,
        identities=tmp_path,
        backend=Backend(port=1),
        load=wrk,
        proxy_core=core,
        load_core=core,
    )
    return Measured(site, Pair(client=client, server=server))


EFFORT = Effort(phases=frozenset(PHASES), duration_s=1.0, warmup_s=1.0, paced_s=1.0, tcp_s=1.0)
PACE = Pace(rate_per_s=1000.0, p50_ms=0.2, p99_ms=0.5)


def test_phases_without_a_failure_have_their_figures(tmp_path: Path) -> None:
    with processes.Group() as group:
        measured = under_load(tmp_path, group, Wrk())
        measured.http("url", EFFORT, is_varied=True)
        measured.paced("url", EFFORT, PACE)
        measured.tcp("url", EFFORT)
        measured.memory(Metric.RSS_IDLE_MIB, Metric.PSS_IDLE_MIB)
    assert measured.faults == []
    assert measured.figures[Metric.REQUESTS_PER_S] == 50.0
    assert measured.figures[Metric.RSS_IDLE_MIB] > 0


def test_latency_is_what_the_proxies_add_to_a_request_without_them(tmp_path: Path) -> None:
    with processes.Group() as group:
        measured = under_load(tmp_path, group, Wrk())
        measured.paced("url", EFFORT, PACE)
    assert measured.figures[Metric.P50_ADDED_MS] == pytest.approx(0.3)
    assert measured.figures[Metric.P99_ADDED_MS] == pytest.approx(1.0)


def test_one_failed_request_takes_the_figures_of_its_phase_away(tmp_path: Path) -> None:
    with processes.Group() as group:
        measured = under_load(tmp_path, group, Wrk(timeout=1))
        measured.http("url", EFFORT, is_varied=True)
        measured.paced("url", EFFORT, PACE)
        measured.tcp("url", EFFORT)
    assert measured.figures == {}
    assert measured.faults == ["http: 1 x timeout", "latency: 1 x timeout", "tcp: 1 x timeout"]


# report


def test_the_page_leads_with_the_ratio_of_cpu_per_request() -> None:
    run = a_run([sample(1, "meshctl", 60.0), sample(1, "envoy", 120.0)])
    page = report.markdown(run, "benchmarks.svg")
    assert "costs **0.50 times** the CPU" in page
    assert "](benchmarks.svg)" in page
    assert "| CPU per request, µs | 60.0 | 120 |" in page
    assert "Every request of every round succeeded." in page


def test_the_page_names_versions_command_date_and_features() -> None:
    page = report.markdown(a_run([sample(1, "envoy", 1.0)]), "x.svg")
    for text in ("envoy-version", "`scripts/bench --rounds 3`", "2025-01-02 03:04 UTC"):
        assert text in page
    assert "* **meshctl**: what meshctl does." in page
    assert "* **envoy**: what envoy cannot." in page
    assert "No ratio of CPU per request" in page


def test_the_page_lists_what_was_left_out_and_keeps_it_on_one_line() -> None:
    fault = "run: meshctl-server ended | code 1; its log ends:\nTraceback\n  more"
    page = report.markdown(a_run([sample(2, "meshctl", None, fault)]), "x.svg")
    assert "| 2 | meshctl | run: meshctl-server ended \\| code 1; its log ends: |" in page
    assert "Traceback" not in page
    assert "Every request of every round succeeded." not in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    more = {metric.value: 1.5 for metric in Metric}
    names = ("meshctl", "envoy", "nginx", "meshctl bare", "envoy bare")
    everybody = (*names, "policy scale", "observability", "direct")
    run = a_run([sample(n, name, **more) for n in (1, 2) for name in everybody], names)
    page = report.markdown(run, "x.svg")
    tables = [block.splitlines() for block in page.split("\n\n") if block.strip().startswith("|")]
    for table in tables:
        assert {line.count(" | ") for line in table} == {table[0].count(" | ")}
    lengths = [len(table) - 2 for table in tables]
    with_ratio = sum(row.has_ratio for row in ROWS)
    judged = len(targets.judge(run.samples))
    multiplexed = [len(MULTIPLEXED_ROWS), sum(row.has_ratio for row in MULTIPLEXED_ROWS)]
    of_ours = [len(SCALE_ROWS), len(OBSERVABILITY_ROWS)]
    both = [len(ROWS), with_ratio] * 2
    assert lengths[:9] == [judged, *both, *multiplexed, *of_ours]


def test_the_bare_ones_are_compared_among_themselves() -> None:
    names = ("meshctl", "envoy", "meshctl bare", "envoy bare")
    values = dict(zip(names, (60.0, 120.0, 45.0, 75.0), strict=True))
    page = report.markdown(a_run([sample(1, n, v) for n, v in values.items()], names), "x.svg")
    assert "| CPU per request (less is better) | 0.50 | 1.00 |" in page
    assert "| CPU per request (less is better) | 0.60 | 1.00 |" in page
    assert "Relative to envoy bare:" in page


def test_a_header_that_never_reached_the_application_is_named() -> None:
    seen = replace(sample(1, "meshctl", 1.0), seen=("x-request-id", "x-forwarded-client-cert"))
    page = report.markdown(a_run([seen]), "x.svg")
    assert "* **meshctl**: no `traceparent` reached the application." in page
    assert "no `x-request-id`" not in page


def verdicts(samples: Sequence[Sample]) -> dict[str, bool | None]:
    return {target.figure: target.is_met for target in targets.judge(samples)}


def test_targets_are_judged_by_the_median_of_ratios() -> None:
    samples = [
        sample(1, "meshctl", 50.0, p99_added_ms=1.0, rss_idle_mib=30, tcp_cpu_s_per_gib=1.2),
        sample(1, "envoy", 100.0, p99_added_ms=1.0, rss_idle_mib=60, tcp_cpu_s_per_gib=1.0),
        sample(1, "policy scale", apply_slowest_ms=99, cpu_10_services_us=50.0),
        sample(2, "policy scale", apply_slowest_ms=101, cpu_1000_services_us=50.0),
        sample(1, "observability", cpu_observed_us=92.0, cpu_observed_not_us=80.0),
        sample(1, "observability", scrape_ms=51.0, scrape_p99_ratio=1.4, top_refresh_ms=90.0),
    ]
    met = verdicts(samples)
    assert met["CPU per request, two hops, of Envoy's"] is True
    assert met["p99 added at a third of Envoy's saturation, of Envoy's"] is False
    assert met["memory idle, of Envoy's"] is True
    assert met["memory at 1,000 connections, of Envoy's"] is None
    assert met["CPU per GiB of TCP, of Envoy's"] is False
    assert met["policy of 1,000 services: published to applied, slowest"] is False
    observed = "CPU per request with metrics, traces of 1 % and all access logs, of that without"
    assert met[observed] is True
    assert met["`/metrics` with 1,000 series: its answer"] is False
    assert met["p99 while it is scraped every second, of the p99 without"] is True
    assert met["100 services, 1,000 edges: a refresh of `top`"] is True
    assert met["100 services, 1,000 edges: a refresh of the dashboard"] is None
    # Never in the same round: no ratio.
    assert met["CPU per request with 1,000 services, of that with 10"] is None


def test_the_page_shows_target_figure_and_verdict() -> None:
    run = a_run([sample(1, "meshctl", 66.0), sample(1, "envoy", 100.0)])
    page = report.markdown(run, "x.svg")
    assert "| CPU per request, two hops, of Envoy's | at most 0.5 | 0.66 | **no** |" in page
    assert "| memory idle, of Envoy's | at most 0.5 | - | not measured |" in page


def test_a_busy_machine_is_warned_of_at_the_top_and_on_the_terminal() -> None:
    shares = {"machine_foreign_share": 0.3, "foreign_share": 0.0}
    run = a_run([sample(1, "envoy", 10.0, **shares)])
    page = report.markdown(run, "x.svg")
    assert page.index("the machine was busy") < page.index("## Two hops")
    assert "up to 30% of a core" in page
    assert report.terminal(run).startswith("Warning: the machine was busy.")
    quiet = a_run([sample(1, "envoy", 10.0, foreign_share=0.05)])
    assert "busy" not in report.terminal(quiet)


def test_a_profile_is_part_of_the_page_as_it_is() -> None:
    run = replace(a_run([sample(1, "envoy", 1.0)]), profile="meshctl-server: 3 samples\n")
    assert "```text\nmeshctl-server: 3 samples\n```" in report.markdown(run, "x.svg")


@pytest.mark.parametrize(
    ("share", "foreign", "expected"),
    [
        (0.99, 0.0, ()),
        (0.6, 0.0, ("used 60% of its core",)),
        (0.7, 0.28, ("took 28% of the proxy core",)),
    ],
)
def test_a_figure_that_must_not_be_quoted_says_so(
    share: float, foreign: float, expected: tuple[str, ...]
) -> None:
    shares: Mapping[str, float] = {
        Metric.PROXY_CORE_SHARE.value: share,
        Metric.FOREIGN_SHARE.value: foreign,
    }
    page = report.markdown(a_run([sample(1, "envoy", 10.0, **shares)]), "x.svg")
    remarks = [text for text in ("of its core:", "are provisional") if text in page]
    assert len(remarks) == len(expected)
    for text in expected:
        assert text in page


def test_the_terminal_table_is_aligned_and_ends_with_what_was_left_out() -> None:
    run = a_run([sample(1, "meshctl", 60.0), sample(1, "envoy", 120.0, "tcp: 1 x read\nmore")])
    lines = report.terminal(run).splitlines()
    assert lines[0].split() == ["meshctl", "envoy"]
    assert lines[1].split() == ["CPU", "per", "request,", "µs", "60.0", "120"]
    assert lines[1].index("60.0") + 4 == lines[0].index("meshctl") + len("meshctl")
    assert len(lines[1]) == len(lines[0])
    assert lines[-1] == "left out: round 1, envoy, tcp: 1 x read"
    assert "CPU per request, two hops, of Envoy's" in report.terminal(run)


def test_the_raw_samples_can_be_read_back() -> None:
    run = a_run([sample(1, "meshctl", 60.0), sample(2, "meshctl", None, "http: 1 x read")])
    read = json.loads(report.raw(run))
    assert read["samples"][0]["figures"] == {"cpu_us_per_request": 60.0}
    assert read["samples"][1]["faults"] == ["http: 1 x read"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.256, "0.26"), (9.999, "10.00"), (41.26, "41.3"), (181.4, "181"), (26900.4, "26,900")],
)
def test_numbers_have_about_three_figures(value: float, text: str) -> None:
    assert chart.number(value) == text


def test_a_single_round_shows_no_spread_and_no_round_a_dash() -> None:
    one = Spread(median=0.5, low=0.5, high=0.5, count=1)
    assert tables.cell(one, 100) == "50.0"
    assert tables.cell(replace(one, low=0.4, count=2)) == "0.50 (0.40..0.50)"
    assert tables.cell(None) == "-"


# chart


def test_the_chart_is_well_formed_and_its_bars_are_to_scale() -> None:
    spreads = [Spread(median=value, low=value, high=value, count=2) for value in (50.0, 100.0)]
    panel = chart.Panel(title="CPU <µs> & more", bars=list(zip(("a", "b"), spreads, strict=True)))
    root = ElementTree.fromstring(chart.render([panel], "caption"))
    bars = [float(bar.attrib["width"]) for bar in root.findall(".//{*}rect")][1:]
    assert bars[0] * 2 == bars[1]
    texts = [text.text for text in root.findall(".//{*}text")]
    assert texts == ["CPU <µs> & more", "a", "50.0", "b", "100", "caption"]


def test_a_chart_of_a_run_leaves_out_panels_without_figures() -> None:
    text = report.chart(a_run([sample(1, "meshctl", 60.0)]))
    assert "CPU per request" in text
    assert "Resident memory" not in text
    assert "prefers-color-scheme: dark" in text


# profile, command line, surroundings


def test_a_profile_adds_up_a_function_whatever_its_line() -> None:
    folded = [
        "main (a.py:1);work (b.py:2) 30",
        "main (a.py:1);work (b.py:9) 10",
        "main (a.py:3) 60",
    ]
    text = profile.summary("ours", folded)
    assert "ours: 100 samples" in text
    assert "   40.0%   40.0%  work (b.py)" in text
    assert "   60.0%  100.0%  main (a.py)" in text
    assert profile.summary("ours", ["broken line"]) == "ours: no samples"


def test_a_profile_says_whose_code_it_is() -> None:
    reported = [
        "# Overhead  Shared Object",
        "    40.00%  [kernel.kallsyms]",
        "    10.00%  [nf_tables]",
        "    20.00%  libpython3.11.so.1.0",
        "    15.00%  libcrypto.so.3",
        "     5.00%  libssl.so.3",
        "     6.00%  loop.cpython-311-x86_64-linux-gnu.so",
        "     4.00%  _core.cpython-311-x86_64-linux-gnu.so",
    ]
    assert profile.shares(reported).splitlines()[1:] == [
        "   50.0%  kernel",
        "   20.0%  interpreter",
        "   20.0%  OpenSSL",
        "    6.0%  uvloop",
        "    4.0%  other",
    ]
    assert profile.shares([]) == "both processes: no samples"


def test_impossible_options_are_refused_before_anything_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["--proxy-core", "0", "--load-core", "0"]) == 2
    assert "two different cores" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--only", "http,disk"])
    assert (
        "'disk' is none of http, latency, tcp, memory, unary, streaming" in capsys.readouterr().err
    )


def test_a_body_has_exactly_the_size_asked_for() -> None:
    assert len(body(BODY_BYTES)) == 1024
    assert len(body(1)) == 1


def test_free_ports_are_distinct() -> None:
    ports = free_ports()
    values = [getattr(ports, name) for name in type(ports).__dataclass_fields__]
    assert len(set(values)) == len(values)


def test_a_stopped_group_leaves_no_process(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with processes.Group() as group:
        started = group.add(
            processes.Process("sleeper", ["sleep", "60"], core=core, log=tmp_path / "log")
        )
        started.check()
        assert started.cpu_s() >= 0
    with pytest.raises(processes.Failed, match="sleeper ended with code"):
        started.check()
    assert not Path(f"/proc/{started.pid}").exists()


def test_a_program_that_ends_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    command_line = ["sh", "-c", "echo the reason >&2; exit 3"]
    with processes.Group() as group:
        started = group.add(
            processes.Process("short", command_line, core=core, log=tmp_path / "log")
        )
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(processes.Failed, match="code 3; its log ends:\nthe reason"):
            started.check()


PAGE = """\
# HELP a_total Some.
# TYPE a_total counter
a_total{b="1",c="x y"} 2
a_total{b="2",c="x"} 3.5
a_total_more 7
plain 1
# TYPE h histogram
h_bucket{b="1",le="5"} 1
h_bucket{b="1",le="+Inf"} 1
h_sum{b="1"} 3
h_count{b="1"} 1
# TYPE alone histogram
alone_bucket{le="5"} 1
alone_sum{} 3
pool_count 4
"""


def test_a_metric_of_a_page_is_added_up_over_its_series_and_no_other() -> None:
    assert observability.total(PAGE, "a_total") == 5.5
    assert observability.total(PAGE, "plain") == 1
    assert observability.total(PAGE, "absent") == 0


def test_all_lines_of_a_histogram_are_one_series() -> None:
    assert observability.series_of(PAGE) == {
        'a_total{b="1",c="x y"}',
        'a_total{b="2",c="x"}',
        "a_total_more",
        "plain",
        'h{b="1"}',
        "alone{}",
        "pool_count",
    }


def test_the_page_takes_over_what_the_soak_found() -> None:
    run = a_run([sample(1, "envoy", 1.0)])
    lines = report.markdown(run, "x.svg", soaked="## Soaked\n\nfine\n").splitlines()
    at = lines.index("## Soaked")
    assert lines[at : at + 5] == ["## Soaked", "", "fine", "", "## Conditions"]
    assert "Soaked" not in report.markdown(run, "x.svg")
