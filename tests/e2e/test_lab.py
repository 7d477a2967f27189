"""The lab itself: its hosts are real, distinct and isolated, and can be broken and mended."""

import subprocess
import time

import pytest


@pytest.fixture
def mended(lab):
    """A host that the test may break: healed and powered on again whatever happens."""
    host = lab.hosts[1]
    yield host
    host.heal()
    host.start()
    host.set_clock(0)


def reaches(lab, host):
    """Whether the operator can open the host's SSH port."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()\n"
        "except OSError as error: sys.exit(type(error).__name__)\n"
    )
    words = ["python3", "-c", script, host.address, str(host.ssh_port)]
    return lab.operator(words, check=False).returncode == 0


def test_three_hosts_run_systemd_and_answer_as_root_and_as_admin(lab):
    assert len(lab.hosts) >= 3
    for host in lab.hosts:
        assert host.run("cat /proc/1/comm").stdout.strip() == "systemd"
        assert host.run("systemctl is-system-running --wait", check=False).stdout.strip() in (
            "running",
            "degraded",
        )
        assert host.run("sudo -n id -un", user=host.user).stdout.strip() == "root"
        assert host.run("sudo -n id -un", user="nosudo", check=False).returncode != 0


def test_hosts_are_distinct(lab):
    identities = [
        (host.name, host.address, host.host_key, host.run("cat /etc/machine-id").stdout.strip())
        for host in lab.hosts
    ]
    for column in zip(*identities, strict=True):
        assert len(set(column)) == len(lab.hosts), column
    assert [host.run("hostname").stdout.strip() for host in lab.hosts] == [
        host.name for host in lab.hosts
    ]


def test_the_published_host_key_is_the_one_the_host_shows(lab):
    for host in lab.hosts:
        scanned = lab.operator(["ssh-keyscan", "-T", "5", "-t", "ed25519", host.address]).stdout
        assert scanned.split(" ", 1)[1].strip() == host.host_key


def test_hosts_have_python_but_nothing_to_install_packages_with(lab):
    host = lab.hosts[0]
    assert host.run("python3 -c 'print(1)'").stdout == "1\n"
    assert host.run("python3 -m pip --version", check=False).returncode != 0
    assert host.run("python3 -m ensurepip --version", check=False).returncode != 0


def test_a_hardened_unit_cannot_write_outside_its_own_state(lab):
    host = lab.hosts[0]
    unit = (
        "systemd-run --quiet --collect --wait --pipe -p DynamicUser=yes -p ProtectSystem=strict "
        "-p StateDirectory=lab-test -p SystemCallFilter=@system-service -p NoNewPrivileges=yes "
    )
    refused = host.run(f"{unit} touch /etc/lab-test", check=False)
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stderr
    host.run(f"{unit} touch /var/lib/lab-test/allowed")
    filtered = host.run(f"{unit} unshare --mount true", check=False)
    assert filtered.returncode != 0


def test_nftables_can_redirect_a_port(lab):
    host = lab.hosts[0]
    try:
        host.run(
            "nft add table ip lab && nft add chain ip lab in "
            "'{ type nat hook prerouting priority -100; }' && "
            "nft add rule ip lab in tcp dport 2222 redirect to :22"
        )
        scanned = lab.operator(["ssh-keyscan", "-T", "5", "-p", "2222", host.address])
        assert host.host_key.split()[1] in scanned.stdout
    finally:
        host.run("nft delete table ip lab")


def test_a_reboot_keeps_address_key_and_files_and_starts_everything_anew(lab, mended):
    before = mended.boot_id()
    mended.run("echo kept >/var/lib/lab-kept && echo lost >/run/lab-lost")
    mended.reboot()
    assert mended.boot_id() != before
    assert mended.run("cat /var/lib/lab-kept && rm /var/lib/lab-kept").stdout == "kept\n"
    assert mended.run("test -e /run/lab-lost", check=False).returncode == 1
    assert mended.address in mended.run("ip -4 -br address show eth0").stdout
    boots = mended.run("journalctl --list-boots --no-pager").stdout
    assert before.replace("-", "") in boots


def test_a_reboot_asked_for_inside_the_host_comes_back(lab, mended):
    before = mended.boot_id()
    mended.run("systemctl reboot", check=False)
    deadline = time.monotonic() + 60
    while True:
        after = mended.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip()
        if after not in ("", before):
            return
        assert time.monotonic() < deadline, "the host did not come back"


def test_a_cut_drops_everything_and_heals(lab, mended):
    other = lab.hosts[0]
    probe = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{mended.address}/22'"
    assert reaches(lab, mended)
    other.run(probe)
    mended.cut()
    assert not reaches(lab, mended)
    silent = other.run(probe, check=False)
    assert silent.returncode == 124, "a partition is silent: no refusal, no unreachable"
    assert reaches(lab, other)
    mended.heal()
    assert reaches(lab, mended)
    other.run(probe)


def test_a_host_that_lost_power_keeps_what_it_had_written(lab, mended):
    mended.run("echo kept >/var/lib/lab-kept && sync /var/lib/lab-kept")
    mended.stop(hard=True)
    assert not reaches(lab, mended)
    mended.start()
    assert mended.run("cat /var/lib/lab-kept && rm /var/lib/lab-kept").stdout == "kept\n"


def test_a_wrong_clock_reaches_logins_sudo_and_services_of_that_host_only(lab, mended):
    ask = "date +%s; sudo date +%s; sudo systemd-run --quiet --collect --wait --pipe date +%s"
    mended.set_clock(3600)
    now = time.time()
    for told in mended.run(ask, user=mended.user).stdout.split():
        assert abs(int(told) - now - 3600) < 60
    assert abs(int(lab.hosts[0].run("date +%s").stdout) - now) < 60
    mended.set_clock(0)
    for told in mended.run(ask, user=mended.user).stdout.split():
        assert abs(int(told) - time.time()) < 60


def test_neither_hosts_nor_operator_have_a_way_out(lab):
    for show in (
        lab.hosts[0].run("ip -4 route").stdout,
        lab.operator(["ip", "-4", "route"]).stdout,
    ):
        routes = show.splitlines()
        assert len(routes) == 1, routes
        assert not routes[0].startswith("default")
    # TEST-NET-3 (RFC 5737): the kernel itself must say that there is no way.
    tried = lab.hosts[0].run("timeout 5 bash -c 'exec 3<>/dev/tcp/203.0.113.1/80'", check=False)
    assert "Network is unreachable" in tried.stderr


def test_bringing_up_what_is_up_changes_nothing(lab):
    boots = [host.boot_id() for host in lab.hosts]
    words = [lab.operator_command([])[0], "up", str(len(lab.hosts))]
    again = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert lab.hosts[0].address in again.stdout
    assert [host.boot_id() for host in lab.hosts] == boots
