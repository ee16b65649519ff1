# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be done to have an agent's vault, and what must never be done."""

from __future__ import annotations

import itertools

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault as vault

PLACE = vault.Place("scout", "agent-scout", "/srv/agents/scout")
OPERATOR = PLACE._replace(unlock="operator")
GOOD = vault.Seen(user=True, home=True, cipher="vault", key=True, copy="same", point="directory", immutable=True)
LOCKED = GOOD._replace(key=False)
FRESH = vault.Seen(user=True, home=True, cipher="absent", key=False, point="absent", immutable=False)


def test_a_good_vault_needs_nothing() -> None:
    assert vault.problems(PLACE, GOOD, False) == []
    assert vault.steps(PLACE, GOOD) == []
    assert vault.shortfalls(PLACE, GOOD) == []


def test_a_fresh_host_seals_the_key_before_it_makes_the_vault() -> None:
    assert vault.problems(PLACE, FRESH, False) == []
    assert vault.steps(PLACE, FRESH) == [vault.SEAL, vault.CREATE, vault.MAKE_POINT, vault.FIX_POINT]


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        # Power was lost between the key and the vault.
        (GOOD._replace(cipher="absent"), [vault.CREATE]),
        (GOOD._replace(cipher="empty"), [vault.CREATE]),
        # Power was lost between a key and the next one, or while one was made.
        (GOOD._replace(next_key=True), [vault.SETTLE]),
        (GOOD._replace(key=False, next_key=True), [vault.SETTLE]),
        (GOOD._replace(leftover=True), [vault.SETTLE]),
        (GOOD._replace(copy="absent"), [vault.SETTLE]),
        (GOOD._replace(copy="differs"), [vault.SETTLE]),
        (GOOD._replace(loose=("/var/lib/cordon/vault/scout",)), [vault.CLOSE_OFF]),
        (GOOD._replace(immutable=False), [vault.FIX_POINT]),
        (GOOD._replace(point="covered", immutable=None, mounted="cordon-vault-scout"), []),
        (
            GOOD._replace(point="covered", immutable=None, mounted="cordon-vault-scout", stale=True),
            [vault.UNMOUNT_STALE],
        ),
        # A container without CAP_LINUX_IMMUTABLE: no step that would be a change on every run.
        (GOOD._replace(immutable=None), []),
        (FRESH._replace(immutable=None), [vault.SEAL, vault.CREATE, vault.MAKE_POINT]),
    ],
)
def test_each_fault_has_its_step(seen: vault.Seen, steps: list[str]) -> None:
    assert vault.problems(PLACE, seen, False) == []
    assert vault.steps(PLACE, seen) == steps


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (GOOD._replace(key=False), ["/etc/cordon/vault/scout.cred is missing", "restore"]),
        (GOOD._replace(cipher="damaged", copy="differs"), ["missing or damaged", "restore it from a backup."]),
        (GOOD._replace(cipher="half"), ["half-made vault", "Nothing can be lost", "rm -r /var/lib/cordon/vault/scout"]),
        (GOOD._replace(cipher="other"), ["/var/lib/cordon/vault/scout is not a directory"]),
        (GOOD._replace(user=False), ["user agent-scout is missing", "cordon.agent_host.agent"]),
        (GOOD._replace(home=False), ["home /srv/agents/scout is missing", "cordon.agent_host.agent"]),
        (GOOD._replace(point="other"), ["/srv/agents/scout/.vault is not a directory"]),
        (GOOD._replace(inside=("leak",)), ["leak", "in the clear", "chattr -i"]),
        (GOOD._replace(point="covered", mounted="tmpfs"), ["tmpfs is mounted there", "umount"]),
    ],
)
def test_a_problem_names_the_object_and_the_remedy(seen: vault.Seen, says: list[str]) -> None:
    (problem,) = vault.problems(PLACE, seen, False)
    for words in says:
        assert words in problem


def test_check_mode_on_a_fresh_host_does_not_miss_the_user() -> None:
    assert vault.problems(PLACE, FRESH._replace(user=False, home=False), True) == []


def test_no_state_of_a_host_lets_a_vault_be_made_over_another() -> None:
    """All combinations: a vault or a damaged one is never created again, nor gets a new key."""
    for cipher, key, next_key, mounted, point, place, password in itertools.product(
        ("vault", "damaged", "half", "other"),
        (True, False),
        (True, False),
        (None, "cordon-vault-scout", "x"),
        ("absent", "directory", "covered"),
        (PLACE, OPERATOR),
        (True, False),
    ):
        seen = GOOD._replace(cipher=cipher, key=key, next_key=next_key, mounted=mounted, point=point)
        if not vault.problems(place, seen, False, password):
            assert vault.CREATE not in vault.steps(place, seen)
            assert vault.SEAL not in vault.steps(place, seen)


@pytest.mark.parametrize(
    ("seen", "password", "steps"),
    [
        (LOCKED, False, []),
        (LOCKED, True, []),
        (LOCKED._replace(loose=("/var/lib/cordon/vault/scout",)), False, [vault.CLOSE_OFF]),
        (FRESH, True, [vault.CREATE, vault.MAKE_POINT, vault.FIX_POINT]),
        (GOOD, True, [vault.TO_PASSWORD]),
        (LOCKED._replace(leftover=True), True, [vault.SETTLE]),
    ],
)
def test_an_operators_vault_has_no_sealed_key(seen: vault.Seen, password: bool, steps: list[str]) -> None:
    assert vault.problems(OPERATOR, seen, False, password) == []
    assert vault.steps(OPERATOR, seen) == steps


@pytest.mark.parametrize(
    ("place", "seen", "says"),
    [
        (OPERATOR, FRESH, "it is to be made"),
        (OPERATOR, GOOD, "a sealed key opens it, /etc/cordon/vault/scout.cred, and the password is to replace that"),
        (OPERATOR, LOCKED._replace(leftover=True), "was interrupted"),
        (OPERATOR, LOCKED._replace(copy="differs"), "its gocryptfs.conf was changed"),
        (PLACE, LOCKED, "If a person's password opens it, give that in passwords.scout"),
    ],
)
def test_what_only_a_password_can_do_is_an_error_without_it(place: vault.Place, seen: vault.Seen, says: str) -> None:
    (problem,) = vault.problems(place, seen, False)
    assert says in problem
    assert "passwords.scout" in problem
    assert vault.problems(place, seen, False, password=True) == []


def test_an_operators_vault_goes_under_a_sealed_key_only_when_its_password_is_given() -> None:
    assert vault.steps(PLACE, LOCKED) == [vault.TO_SEALED]
    assert vault.problems(PLACE, LOCKED, False) != []


@pytest.mark.parametrize(
    ("removed", "confirm", "refused"),
    [
        (["a"], ["a"], False),
        (["a", "b"], ["b", "a"], False),
        (["a"], [], True),
        (["a"], ["b"], True),
        (["a"], ["a", "b"], True),
        (["a", "b"], ["a"], True),
        (["a"], ["a", "a"], True),
    ],
)
def test_a_removal_is_confirmed_by_exactly_the_names(removed: list[str], confirm: list[str], refused: bool) -> None:
    said = vault.confirmed(removed, confirm)
    assert bool(said) == refused
    assert said is None or "nothing was removed" in said


@pytest.mark.parametrize(("password", "says"), [("", "empty"), ("a\nb", "line break"), ("a\r", "line break"), ("a\0", "null")])
def test_a_password_is_one_line(password: str, says: str) -> None:
    assert says in (vault.unusable_password(password) or "")
    assert vault.unusable_password(" any other, ü ") is None


def test_only_age_recipients_are_taken() -> None:
    good = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"  # of age's own documentation
    assert vault.bad_recipients([good]) == []
    for bad in ("", good[:-1], good + "q", good.upper(), "AGE-SECRET-KEY-1" + "Q" * 58, "-i /etc/shadow", good + "\n"):
        assert vault.bad_recipients([good, bad]) == [bad]


def test_a_mount_point_that_cannot_be_immutable_is_said_so() -> None:
    (said,) = vault.shortfalls(PLACE, GOOD._replace(immutable=None))
    assert "/srv/agents/scout/.vault cannot be made immutable" in said


@pytest.mark.parametrize(
    ("seal", "words"),
    [("host+tpm2", ["--tpm2-pcrs=16"]), ("host", [])],
)
def test_a_key_is_bound_to_the_machine_but_to_no_firmware_version(seal: str, words: list[str]) -> None:
    argv = vault.seal_argv(PLACE, seal, "systemd-creds")
    assert argv == [
        *["systemd-creds", "encrypt", f"--with-key={seal}", *words],
        *["--name=cordon-vault-scout", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("seal", "has_systemd_creds", "program"),
    [
        ("auto", True, "systemd-creds"),
        ("auto", False, "openssl"),
        ("host", True, "systemd-creds"),
        ("host+tpm2", True, "systemd-creds"),
        ("openssl", True, "openssl"),
        ("openssl", False, "openssl"),
    ],
)
def test_auto_takes_what_the_release_has(seal: str, has_systemd_creds: bool, program: str) -> None:
    assert vault.program(seal, has_systemd_creds) == program


@pytest.mark.parametrize("seal", ["host", "host+tpm2"])
def test_what_was_asked_for_by_name_is_never_replaced(seal: str) -> None:
    with pytest.raises(vault.VaultError, match="vault_seal"):
        vault.program(seal, False)


@pytest.mark.parametrize(("sealed", "program"), [("U2FsdGVkX18Rppa6", "openssl"), ("Whxqht+dQJax", "systemd-creds")])
def test_a_key_is_unsealed_by_what_sealed_it(sealed: str, program: str) -> None:
    argv = vault.unseal_argv(PLACE, PLACE.next_key, sealed)
    assert argv[0] == program
    assert "/etc/cordon/vault/scout.cred.next" in argv


def test_a_key_is_unsealed_only_under_its_own_name() -> None:
    assert "--name=cordon-vault-scout" in vault.unseal_argv(PLACE, PLACE.key, "")


def test_a_vault_in_the_making_has_a_name_that_no_agent_can_have() -> None:
    assert PLACE.staging == "/var/lib/cordon/vault/.scout.new"
    assert PLACE.lock == "/var/lib/cordon/vault/.scout.lock"
