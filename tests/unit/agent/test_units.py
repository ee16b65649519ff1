# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One confinement for the service and its sessions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.filter.agents import FilterModule
from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _units

TOOLS = {"python": {"environment": {"PYTHON_HISTORY": "{home}/.cache/python_history"}}, "base": {"implicit": True}}
resolve = FilterModule().filters()["agents"]


def agent(**keys):
    return resolve([{"name": "scout", "command": ["/usr/bin/sleep", "infinity"], **keys}])[0]


def setting(text: str, name: str) -> list:
    """Values of a unit file's directive, in order."""
    return [line.split("=", 1)[1] for line in text.splitlines() if line.startswith(f"{name}=")]


def test_service_and_session_have_the_same_drop_in():
    links = {link["path"]: link["target"] for link in _units.files([agent()], TOOLS)["links"]}
    assert set(links.values()) == {"/etc/cordon/agents/scout.conf"}
    assert {path.split("/")[-2] for path in links} == {
        "cordon-agent@scout.service.d",
        "cordon-session-scout-.service.d",
    }


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("User", "agent-scout"),
        ("AppArmorProfile", "cordon.scout"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("Slice", "cordon-scout.slice"),
        ("BindsTo", "cordon-vault@scout.service"),
        ("Requires", "cordon-firewall.service"),
        ("ExecStartPre", "+/usr/lib/cordon/preflight scout"),
        ("RestrictNamespaces", "yes"),
        ("PrivateDevices", "yes"),
    ],
)
def test_confinement(directive, value):
    assert setting(_units.confinement(agent(), TOOLS), directive) == [value]


def test_a_missing_profile_stops_the_unit():
    """systemd.exec(5): with the prefix '-' a missing profile is ignored and the agent runs unconfined."""
    assert not setting(_units.confinement(agent(), TOOLS), "AppArmorProfile")[0].startswith("-")


@pytest.mark.parametrize(("mode", "word"), [("burn_in", "mixed"), ("enforce", "enforce")])
def test_entry_is_told_the_label_to_insist_on(mode, word):
    text = _units.confinement(agent(mode=mode), TOOLS)
    assert f'"CORDON_LABEL=cordon.scout//&cordon.scout.main ({word})"' in setting(text, "Environment")


def test_without_apparmor_no_profile_is_named_and_entry_knows():
    text = _units.confinement(agent(), TOOLS, apparmor=False)
    assert setting(text, "AppArmorProfile") == []
    assert '"CORDON_LABEL=unenforced"' in setting(text, "Environment")


def test_granted_devices_are_named_one_by_one():
    limits = {"gpu": True, "devices": ["/dev/video0"]}
    text = _units.confinement(agent(limits=limits), TOOLS)
    assert setting(text, "PrivateDevices") == []
    assert setting(text, "DevicePolicy") == ["closed"]
    assert "/dev/video0 rw" in setting(text, "DeviceAllow") and "char-drm rw" in setting(text, "DeviceAllow")


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("plain", '"plain"'),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ("a\\b", '"a\\\\b"'),
    ],
)
def test_words_of_the_command_reach_the_program_unchanged(word, quoted):
    text = _units.command(agent(command=["/usr/bin/echo", word]))
    assert setting(text, "ExecStart") == [f'/usr/bin/env -- /usr/lib/cordon/entry --unit=%n "/usr/bin/echo" {quoted}']


def test_the_slice_bounds_cpu_memory_swap_and_tasks():
    text = _units.slice_unit(agent(limits={"cpu": "150%", "memory": "2G", "tasks": 99}))
    for directive, value in {"CPUQuota": "150%", "MemoryMax": "2G", "MemorySwapMax": "0", "TasksMax": "99"}.items():
        assert setting(text, directive) == [value]


def test_the_home_belongs_to_root_and_only_the_work_directories_to_the_agent():
    rows = {row["path"]: row.get("owner", "root") for row in _units.files([agent()], TOOLS)["directories"]}
    own = {path.rsplit("/", 1)[1] for path, user in rows.items() if user == "agent-scout"}
    assert rows["/srv/agents/scout"] == "root" and rows["/srv/agents/scout/.ssh"] == "root"
    assert own == {"workspace", ".cache", ".config", ".local"}


def test_gpg_finds_a_directory_for_its_keys():
    rows = {row["path"]: row for row in _units.files([agent(tools=["gpg"])], TOOLS)["directories"]}
    assert rows["/srv/agents/scout/.gnupg"]["owner"] == "agent-scout"
    assert rows["/srv/agents/scout/.gnupg"]["mode"] == "0700"


def test_no_boot_waits_for_an_operator_and_a_shutdown_still_ends_the_agent():
    assert "DefaultDependencies" not in _units.command(agent())
    text = _units.command({**agent(), "vault": {"unlock": "operator"}})
    assert setting(text, "DefaultDependencies") == ["no"]
    assert setting(text, "Conflicts") == setting(text, "Before") == ["shutdown.target"]


def test_a_crash_handler_gets_nothing_of_an_agent():
    text = _units.confinement(agent(), TOOLS)
    assert (setting(text, "LimitCORE"), setting(text, "CoredumpFilter")) == (["1"], ["0"])


def test_output_paths_are_writable_in_the_unit():
    text = _units.confinement(agent(workspace={"read_write": ["/srv/output"]}), TOOLS)
    assert setting(text, "ReadWritePaths") == ["/srv/agents/scout", "-/srv/output"]


def test_what_a_tool_needs_in_its_environment_comes_with_it_and_the_manifest_has_the_last_word():
    """A program that keeps its state right below the home would be refused at each use: the home is root's."""
    def history(**keys):
        text = _units.confinement(agent(**keys), TOOLS)
        return [line for line in setting(text, "Environment") if "PYTHON_HISTORY" in line]

    assert history() == []
    assert history(tools=["python"]) == ['"PYTHON_HISTORY=/srv/agents/scout/.cache/python_history"']
    assert history(tools=["python"], environment={"PYTHON_HISTORY": "/dev/null"}) == ['"PYTHON_HISTORY=/dev/null"']


def test_git_asks_for_a_secret_that_only_git_reads():
    text = _units.confinement(agent(tools=["git"], secrets=[{"name": "token", "tools": ["git"]}, {"name": "other"}]), TOOLS)
    found = [line.strip('"') for line in setting(text, "Environment") if "GIT_CONFIG" in line]
    assert found == [
        "GIT_CONFIG_COUNT=1",
        "GIT_CONFIG_GLOBAL=/srv/agents/scout/.config/gitconfig",
        "GIT_CONFIG_KEY_0=credential.helper",
        "GIT_CONFIG_VALUE_0=cordon /srv/agents/scout/.vault/token",
    ]


def test_ssh_finds_its_keys_in_the_vault_and_notes_hosts_where_the_agent_may_write():
    files = {file["path"]: file["content"] for file in _units.files([
        agent(tools=["ssh"], secrets=[{"name": "deploy_key", "tools": ["ssh"]}, {"name": "other"}]),
    ], TOOLS)["files"]}
    assert files["/etc/ssh/ssh_config.d/50-cordon.conf"].splitlines()[3:] == [
        "Match localuser agent-scout",
        "    UserKnownHostsFile /srv/agents/scout/.config/ssh_known_hosts",
        "    IdentityAgent none",
        "    IdentitiesOnly yes",
        "    IdentityFile /srv/agents/scout/.vault/deploy_key",
    ]


def test_without_ssh_nothing_is_said_to_ssh():
    assert not [file for file in _units.files([agent()], TOOLS)["files"] if "/etc/ssh" in file["path"]]


HTTPS = {"name": "api.example.org", "port": 443, "protocol": "https", "log": True, "inspect": False, "networks": [],
         "requests": []}
SSH = {"name": "git.example.org", "port": 22, "protocol": "tcp", "log": True, "inspect": False, "networks": [],
         "requests": []}
CIDR = {"cidr": "10.20.0.0/24", "port": 5432, "protocol": "tcp", "log": True}


def reaching(*egress):
    """A resolved agent with this egress."""
    return {**agent(), "egress": list(egress)}


@pytest.mark.parametrize(("egress", "services"), [
    ([], []),
    ([CIDR], []),
    ([HTTPS], ["cordon-proxy.service"]),
    ([SSH], ["cordon-resolver.service"]),
    ([SSH, HTTPS, CIDR], ["cordon-proxy.service cordon-resolver.service"]),
])
def test_what_serves_its_names_runs_before_the_agent_and_its_restart_does_not_restart_the_agent(egress, services):
    text = _units.confinement(reaching(*egress), TOOLS)
    assert setting(text, "Requires") == ["cordon-firewall.service"]
    assert setting(text, "Wants") == services
    before = " ".join(["cordon-vault@scout.service", "cordon-firewall.service", *services, "cordon-events.service"])
    assert setting(text, "After") == [f"{before} apparmor.service"]


@pytest.mark.parametrize("egress", [[], [CIDR]])
def test_an_agent_without_names_keeps_the_hosts_resolv_conf_and_has_no_proxy(egress):
    text = _units.confinement(reaching(*egress), TOOLS)
    assert "-/run/systemd/resolve" in setting(text, "InaccessiblePaths")
    assert setting(text, "BindReadOnlyPaths") == [] and setting(text, "TemporaryFileSystem") == []
    assert not [line for line in setting(text, "Environment") if "proxy" in line.lower()]
    assert not [file for file in _units.files([reaching(*egress)], TOOLS)["files"] if file["path"].endswith(".resolv")]


@pytest.mark.parametrize("egress", [[HTTPS], [SSH]])
def test_an_agent_with_names_has_its_own_resolv_conf(egress):
    """Also where it may not ask: a port that refuses at once is no hang."""
    scout = reaching(*egress)
    text = _units.confinement(scout, TOOLS)
    assert setting(text, "BindReadOnlyPaths") == ["/etc/cordon/agents/scout.resolv:/etc/resolv.conf"]
    # The link's target would lie below an inaccessible directory, and the bind mount would be dropped with it.
    assert not [path for path in setting(text, "InaccessiblePaths") if path.endswith("/run/systemd/resolve")]
    assert setting(text, "TemporaryFileSystem")[0].startswith("/run/systemd/resolve:ro,")
    files = {file["path"]: file["content"] for file in _units.files([scout], TOOLS)["files"]}
    assert files["/etc/cordon/agents/scout.resolv"].splitlines()[1:] == [
        f"nameserver {_egress.address('scout')}", "options edns0 timeout:2 attempts:1"]


def test_programs_are_told_of_the_proxy_on_the_agents_own_address():
    listed = [reaching(HTTPS), {**reaching(SSH, HTTPS), "name": "scribe"}]
    files = {file["path"]: file["content"] for file in _units.files(listed, TOOLS)["files"]}
    for name, address in _egress.addresses(listed).items():
        environment = setting(files[f"/etc/cordon/agents/{name}.conf"], "Environment")
        assert f'"https_proxy=http://{address}:3128"' in environment


def test_what_the_manifest_sets_itself_wins():
    scout = {**reaching(HTTPS), "environment": {"NO_PROXY": "*"}}
    environment = setting(_units.confinement(scout, TOOLS), "Environment")
    assert '"NO_PROXY=*"' in environment and len([one for one in environment if one.startswith('"NO_PROXY=')]) == 1


@pytest.mark.parametrize(("ca", "trusted"), [(False, 0), (True, 1)])
def test_a_ca_of_the_operators_is_trusted_only_where_there_is_one(ca, trusted):
    environment = setting(_units.confinement(reaching(HTTPS), TOOLS, ca=ca), "Environment")
    assert environment.count(f'"SSL_CERT_FILE={_egress.CA_BUNDLE}"') == trusted


CREDENTIAL = Path(__file__).parents[3] / "roles" / "agent" / "files" / "git-credential"


@pytest.mark.parametrize(("asked", "answer"), [
    ("protocol=https\nhost=git.example.org\n\n", "username=x\npassword=a:b@c\n"),
    ("protocol=https\nhost=git.example.org:8443\n\n", "username=y\npassword=z\n"),
    ("protocol=http\nhost=git.example.org\n\n", ""),
    ("protocol=https\nhost=evil.example.org\n\n", ""),
    ("protocol=https\nhost=*\n\n", ""),
    ("protocol=\nhost=git.example.org\n\n", ""),
    ("", ""),
])
def test_a_credential_goes_to_its_host_only(tmp_path, asked, answer):
    secret = tmp_path / "token"
    secret.write_text("https://x:a:b@c@git.example.org\nhttps://y:z@git.example.org:8443", encoding="utf-8")
    for operation, expected in (("get", answer), ("store", ""), ("erase", "")):
        done = subprocess.run(["sh", str(CREDENTIAL), str(secret), operation], input=asked, capture_output=True, text=True,
                              check=True)
        assert done.stdout == expected


def vault_drop_in(**keys):
    files = {row["path"]: row["content"] for row in _units.files([agent(**keys)], TOOLS)["files"]}
    return files["/etc/systemd/system/cordon-vault@scout.service.d/50-manifest.conf"]


@pytest.mark.parametrize(
    ("vault", "told", "capabilities"),
    [
        ({}, ["CORDON_VAULT_UNLOCK=sealed", "CORDON_VAULT_WRITABLE=no"], []),
        ({"unlock": "operator", "writable": True}, ["CORDON_VAULT_UNLOCK=operator", "CORDON_VAULT_WRITABLE=yes"],
         ["CAP_CHOWN CAP_SETGID CAP_SETUID"]),
    ],
)
def test_the_vaults_unit_is_told_what_the_manifest_says(vault, told, capabilities):
    text = vault_drop_in(vault=vault)
    assert setting(text, "Environment") == told
    assert setting(text, "CapabilityBoundingSet") == capabilities


def test_only_a_vault_that_a_person_unlocks_has_any_time_to_open():
    """A request for more time is forgotten at the next daemon-reload, and the limit counts from the start of the unit then."""
    assert setting(vault_drop_in(vault={"unlock": "operator"}), "TimeoutStartSec") == ["infinity"]
    assert setting(vault_drop_in(), "TimeoutStartSec") == []


def test_in_a_writable_vault_only_the_agents_own_directory_is_writable():
    text = _units.confinement(agent(vault={"writable": True}), TOOLS)
    assert "-/srv/agents/scout/.vault" in setting(text, "ReadOnlyPaths")
    assert setting(text, "ReadWritePaths") == ["/srv/agents/scout", "-/srv/agents/scout/.vault/own"]


def test_a_vault_that_is_not_writable_needs_no_mounts_of_the_unit():
    assert not [path for path in setting(_units.confinement(agent(), TOOLS), "ReadOnlyPaths") if ".vault" in path]


@pytest.mark.parametrize(("idle", "wanted"), [(None, []), ("30m", ["cordon-idle@scout.service"])])
def test_an_agent_that_may_rest_wants_who_ends_it(idle, wanted):
    text = _units.confinement(agent(vault={"idle": idle}), TOOLS)
    assert setting(text, "Upholds") == wanted


def test_who_ends_an_idle_agent_does_not_keep_the_vault_open():
    """Bound to the vault it would count as needing it; part of it, a start of it would make systemd give up closing it."""
    unit = (Path(__file__).parents[3] / "roles/agent/files/units/cordon-idle@.service").read_text(encoding="utf-8")
    assert not [line for line in unit.splitlines() if "cordon-vault@" in line and not line.startswith("#")]
