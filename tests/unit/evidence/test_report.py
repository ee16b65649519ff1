# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter that arranges the results, and the page that shows them."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.filter.evidence import evidence

ROLE = Path(__file__).parents[3] / "roles" / "compliance_evidence"
NASTY = "\"'><script>alert(1)</script><img src=x>&amp;{{ 7*7 }}"
CATALOGUE = {"soc2": {"title": "SOC 2", "controls": {"CC6.1": "Access", "CC7.2": "Monitoring"}}}


def check(name, **changes):
    return dict(
        {
            "id": name,
            "title": f"{name} holds",
            "scope": "host",
            "control": "agent",
            "expression": f"host.{name}",
            "expected": 1,
            "controls": {"soc2": ["CC6.1"]},
            "remedy": f"mend {name}",
        },
        **changes,
    )


def facts(**more):
    return dict(
        {
            "collected_at": "2026-11-23T04:30:00Z",
            "os": {"pretty_name": "Debian"},
            "kernel": {"release": "6.1"},
            "support": {},
            "allow_unenforced": [],
            "unreadable": {},
            "agents": {},
        },
        **more,
    )


def agents(**values):
    promotion = {
        "basis": "promoted", "faults": [f"condition window: {NASTY}"], "at": "2026-11-23 04:30 UTC", "by": NASTY,
        "window_days": 15.2, "shown": [{"id": "window", "title": NASTY, "met": False, "observed": NASTY}],
        "acts_refused": 3, "replayed": [["git", NASTY]], "burn_in_days": 0, "longest_days": 28,
    }
    return {
        name: {"mode": "enforce", "session": {"active": True}, "x": value, "promotion": promotion}
        for name, value in values.items()
    }


CHECKS = [check("good"), check("bad"), check("x", scope="agent", expression="agent.x", controls={"soc2": ["CC7.2"]})]
FACTS = facts(good=1, bad=2, agents=agents(a=1, b=2))


def test_what_needs_attention_comes_first_and_the_host_before_its_agents():
    results = evidence(FACTS, CHECKS, CATALOGUE)["results"]
    assert [(r["status"], r["id"], r["agent"]) for r in results] == [
        ("fail", "bad", None),
        ("fail", "x", "b"),
        ("pass", "good", None),
        ("pass", "x", "a"),
    ]


def test_the_summary_counts_every_status():
    assert evidence(FACTS, CHECKS, CATALOGUE)["summary"] == {"fail": 2, "error": 0, "not_enforced": 0, "pass": 2}


def test_a_control_has_its_worst_status_and_names_each_check_once():
    (framework,) = evidence(FACTS, CHECKS, CATALOGUE)["matrix"]
    assert [(row["id"], row["status"], row["checks"]) for row in framework["controls"]] == [
        (
            "CC6.1",
            "fail",
            [{"id": "bad", "agent": None, "status": "fail"}, {"id": "good", "agent": None, "status": "pass"}],
        ),
        ("CC7.2", "fail", [{"id": "x", "agent": "b", "status": "fail"}]),
    ]


def test_a_control_without_results_has_no_status():
    (framework,) = evidence(facts(good=1), CHECKS[:1], CATALOGUE)["matrix"]
    assert framework["controls"][1]["status"] is None


def test_the_sum_is_that_of_the_sorted_facts():
    text = json.dumps(FACTS, sort_keys=True, separators=(",", ":"))
    assert evidence(FACTS, CHECKS, CATALOGUE)["sha256"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ([check("x", controls={"soc2": ["CC9.9"]})], r"controls.yml does not list soc2 CC9.9 \(check x\)"),
        ([check("x", controls={"pci": ["1"]})], "pci 1"),
        ([check("x", scope="y")], "bad checks: x: scope"),
    ],
)
def test_checks_that_cannot_be_reported_are_refused(checks, message):
    with pytest.raises(AnsibleFilterError, match=message):
        evidence(FACTS, checks, CATALOGUE)


class Lists(list):
    """Like ansible-core's tagged list: a list to Python, an unknown type to jmespath."""


def test_ansibles_own_types_are_lists_to_jmespath():
    made = evidence(
        facts(names=Lists(["a"])), [check("n", expression="contains(host.names, 'a')", expected=True)], CATALOGUE
    )
    assert made["summary"]["pass"] == 1


def page(judged):
    """Render as Ansible does: no autoescape, blocks trimmed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["to_json"] = json.dumps
    environment.filters["to_nice_json"] = lambda value: json.dumps(value, indent=4, sort_keys=True)
    return environment.get_template("evidence.html.j2").render(
        inventory_hostname="host-1", __compliance_evidence_judged=judged
    )


class Reader(HTMLParser):
    """Collects elements, ids and links, and notices what is not closed."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.ids, self.links, self.words = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"]] if "href" in named else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_well_formed_stands_alone_and_its_links_lead_somewhere():
    reader = Reader(page(evidence(FACTS, CHECKS, CATALOGUE)))
    assert reader.open == []
    assert not reader.names & {"script", "link", "img", "iframe", "object"}
    assert len(reader.ids) == len(set(reader.ids)) == 4
    assert set(reader.links) <= {f"#{name}" for name in reader.ids}


def test_the_page_shows_observed_beside_expected_and_the_remedy():
    words = " ".join(Reader(page(evidence(FACTS, CHECKS, CATALOGUE))).words)
    assert "bad holds" in words
    assert "mend bad" in words
    assert words.index("What needs attention") < words.index("bad holds") < words.index("good holds")


def test_the_page_shows_why_an_agent_is_in_enforce_and_what_is_wrong_with_that():
    words = " ".join(Reader(page(evidence(FACTS, CHECKS, CATALOGUE))).words)
    for shown in ("Promoted 2026-11-23 04:30 UTC by", "15.2 days", "3 acts refused", "NOT true", "condition window"):
        assert shown in words


def test_nothing_that_was_observed_becomes_markup():
    nasty = facts(
        good={NASTY: [NASTY, {NASTY: NASTY}]},
        bad=[NASTY],
        unreadable={NASTY: NASTY},
        agents=agents(**{NASTY: NASTY}),
        os={"pretty_name": NASTY},
        kernel={"release": NASTY},
        collected_at=NASTY,
        allow_unenforced=[NASTY],
    )
    checks = [check("good", title=NASTY, remedy=NASTY, expected=[NASTY]), *CHECKS[1:]]
    catalogue = {"soc2": {"title": NASTY, "controls": {"CC6.1": NASTY, "CC7.2": NASTY}}}
    text = page(evidence(nasty, checks, catalogue))
    reader = Reader(text)
    assert not reader.names & {"script", "img"}
    assert "<script" not in text
    assert "{{ 7*7 }}" in text


def test_a_host_without_facts_still_gets_a_page():
    blank = facts(
        os={"pretty_name": None}, kernel={"release": None}, agents={"a": {"mode": "enforce", "session": None}}
    )
    assert "not running" in page(evidence(blank, CHECKS, CATALOGUE))
