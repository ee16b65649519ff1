# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge facts by checks. A check is data; adding one is adding an entry to checks.yml.

A check:
    id          str, unique, lower case with hyphens
    title       str, a statement that is true when the check passes
    scope       host (judged once) or agent (judged once per agent)
    control     agent, vault, apparmor, firewall or monitoring
    expression  JMESPath over {"host": facts, "agent": facts["agents"][NAME]}: what was observed
    expected    the constant it is compared with, or
    expected_from  a JMESPath over the same data (a limit of the manifest, a recorded hash)
    compare     equal (default), at_least or at_most
    controls    {framework: [control ids]}, see controls.yml
    remedy      what to type; {agent} is replaced by the agent's name
    needs       apparmor, audit, webhook, heartbeat or null: what this cannot hold without, be it of the
                kernel or a receiver off the host
    preflight   true: an agent does not start while this fails

A result: {id, title, control, scope, agent (null for host), status, expected, observed, compare,
remedy, controls}, with status one of
    pass          observed compares with expected
    fail          it does not, or the observed value is null while null was not expected
    not_enforced  what the check needs is not there, and the operator accepted that
                  (agent_host_allow_unenforced, or a receiver `none`); never reported as a pass
    error         the expression could not be evaluated; `observed` holds the message

jmespath is the only import outside the standard library, and it is imported when first used:
the facts can be collected on a host that does not have it.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

PASS, FAIL, NOT_ENFORCED, ERROR = "pass", "fail", "not_enforced", "error"
STATUSES = (FAIL, ERROR, NOT_ENFORCED, PASS)  # the order of attention
SCOPES = ("host", "agent")
CONTROLS = ("agent", "vault", "apparmor", "firewall", "monitoring")
NEEDS = ("apparmor", "audit", "webhook", "heartbeat")
COMPARISONS = ("equal", "at_least", "at_most")
REQUIRED = ("id", "title", "scope", "control", "expression", "controls", "remedy")
OPTIONAL = ("expected", "expected_from", "compare", "needs", "preflight")

Check = Mapping[str, Any]
Result = Dict[str, Any]


class ChecksError(Exception):
    """The checks cannot be used at all; the message says why and what to do."""


def evaluate(checks: Sequence[Check], facts: Mapping[str, Any], agent: Optional[str] = None,
             preflight: bool = False) -> List[Result]:
    """Return one result per host check and per agent check and agent.

    facts: what _facts.collect() returned. agent: judge only this agent (host checks included).
    preflight: only the checks that must hold before an agent starts.
    Raises ChecksError when jmespath is missing, a check is malformed, or `agent` has no facts.
    """
    # A preflight pays for parsing its own expressions only: the parser is pure Python, and an agent waits for it.
    chosen = [check for check in checks if check.get("preflight") or not preflight]
    mistakes = validate(chosen)
    if mistakes:
        raise ChecksError("bad checks: " + "; ".join(mistakes))
    agents = facts.get("agents") or {}
    if agent is not None and agent not in agents:
        raise ChecksError("no facts were collected for agent %r: is it in /etc/cordon/manifest.json?" % agent)
    names = sorted(agents) if agent is None else [agent]
    return [_judge(check, facts, name)
            for check in chosen
            for name in ([None] if check["scope"] == "host" else names)]


def worst(statuses: Iterable[str]) -> Optional[str]:
    """Return the status that asks for most attention, or None when there is none."""
    found = set(statuses)
    return next((status for status in STATUSES if status in found), None)


def summary(results: Sequence[Result]) -> Dict[str, int]:
    """Return {status: count} with every status present."""
    return {status: sum(1 for r in results if r["status"] == status) for status in STATUSES}


def validate(checks: Sequence[Check]) -> List[str]:
    """Return every mistake in the checks, each naming its check; an empty list when there is none."""
    mistakes: List[str] = []
    seen: set = set()
    for number, check in enumerate(checks):
        name = str(check.get("id", "checks[%d]" % number))
        mistakes += ["%s: %s" % (name, problem) for problem in _problems(check)]
        if name in seen:
            mistakes.append("%s: this id is used twice" % name)
        seen.add(name)
    return mistakes


def _problems(check: Check) -> List[str]:
    found = ["%s is missing" % key for key in REQUIRED if key not in check]
    found += ["%s is not a key of a check" % key for key in check if key not in REQUIRED + OPTIONAL]
    for key, allowed in (("scope", SCOPES), ("control", CONTROLS), ("compare", COMPARISONS), ("needs", NEEDS)):
        value = check.get(key)
        if value is not None and value not in allowed:
            found.append("%s: %r is not one of %s" % (key, value, ", ".join(allowed)))
    if ("expected" in check) == ("expected_from" in check):
        found.append("give exactly one of expected and expected_from")
    for key in ("expression", "expected_from"):
        if key in check:
            found += _syntax(key, str(check[key]))
    return found


def _syntax(key: str, expression: str) -> List[str]:
    jmespath = _jmespath()
    try:
        jmespath.compile(expression)
    except jmespath.exceptions.JMESPathError as problem:
        return ["%s: %s" % (key, " ".join(str(problem).split()))]
    return []


def _jmespath() -> Any:
    try:
        import jmespath
    except ImportError:
        raise ChecksError("the Python package jmespath is missing: on an agent host `apt-get install "
                          "python3-jmespath`, on the Ansible controller `pip install jmespath`") from None
    return jmespath


def _judge(check: Check, facts: Mapping[str, Any], name: Optional[str]) -> Result:
    result: Result = {
        "id": check["id"], "title": check["title"], "control": check["control"], "scope": check["scope"],
        "agent": name, "status": FAIL, "expected": check.get("expected"), "observed": None,
        "compare": check.get("compare") or "equal",
        "remedy": check["remedy"].replace("{agent}", name or "NAME").strip(), "controls": dict(check["controls"]),
    }
    jmespath = _jmespath()
    data = {"host": facts, "agent": (facts.get("agents") or {}).get(name)}
    lacking = _lacking(check.get("needs"), facts)
    try:
        if "expected_from" in check:
            result["expected"] = jmespath.search(check["expected_from"], data)
        result.update(lacking or {"observed": jmespath.search(check["expression"], data)})
    except jmespath.exceptions.JMESPathError as problem:
        result.update(status=ERROR, observed=" ".join(str(problem).split()))
        return result
    if lacking is None:
        result["status"] = PASS if _holds(check, result) else FAIL
    return result


def _lacking(need: Optional[str], facts: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Return what to report when what a check needs is not there; None when it is.

    Support that could not be determined is an error: it is neither a pass nor something accepted.
    """
    if need is None:
        return None
    supported = (facts.get("support") or {}).get(need)
    if supported is True:
        return None
    if supported is None:
        return {"status": ERROR, "observed": "could not tell whether this host has %s" % need}
    if supported == "declined":
        return {"status": NOT_ENFORCED, "observed": "nobody is told (accepted: monitoring_%s_url is none)" % need}
    waived = need in (facts.get("allow_unenforced") or [])
    reason = "this kernel does not offer %s" % need
    return {"status": NOT_ENFORCED if waived else FAIL,
            "observed": reason + (" (accepted: agent_host_allow_unenforced)" if waived else "")}


def _holds(check: Check, result: Result) -> bool:
    observed, expected = result["observed"], result["expected"]
    if observed is None or expected is None:
        # Absence is a pass only where the check's author wrote `expected: null` himself.
        return observed is None and "expected" in check and check["expected"] is None
    if "expected_from" in check and _has_null(observed):
        # Two values that both could not be read are no agreement.
        return False
    if result["compare"] == "equal":
        return _same(observed, expected)
    if not (_is_number(observed) and _is_number(expected)):
        return False
    return bool(observed >= expected if result["compare"] == "at_least" else observed <= expected)


def _same(left: Any, right: Any) -> bool:
    """Equality without Python's True == 1: a mode of 1 is not a flag that is set."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return set(left) == set(right) and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right))
    return bool(left == right)


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_null(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_null(item) for item in value)
    return value is None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
