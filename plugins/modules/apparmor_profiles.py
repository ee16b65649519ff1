#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: apparmor_profiles
short_description: All AppArmor profiles of the agents, in files and in the kernel, in one call
version_added: 0.1.0
description:
  - Brings the files and the kernel to the wanted set of profiles. Both are compared, so a profile that somebody
    edited, unloaded, replaced or put in complain is a change, and it is mended.
  - Compares with the kernel's own hash of the policy. An unchanged run starts no parser.
  - All or nothing. One call of the parser compiles whatever differs before anything is replaced, and what it compiled
    is what the kernel is given and what is loaded at the next boot. If the kernel refuses one profile or a file cannot
    be written, files and kernel are put back as they were.
  - Lists what the running kernel does not enforce of the profiles, with the control that stands in for it. A kernel
    that cannot stack profiles is refused.
  - Touches only files and profiles whose name begins with C(cordon.). Such a one that is not listed is removed, but
    never while a process runs under it, because the kernel would set that process free.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  profiles:
    description:
      - Every profile to have, as P(cordon.agent_host.apparmor_profiles#filter) renders them. An empty list removes all.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the profile and of its file. It begins with C(cordon.).
        type: str
        required: true
      mode:
        description: Mode that the text asks for.
        type: str
        choices: [enforce, complain]
        required: true
      text:
        description: The whole file, with exactly one profile.
        type: str
        required: true
      agent:
        description: The agent that it belongs to. Only told in messages.
        type: str
  allow_unenforced:
    description:
      - Whether to go on where the kernel has no AppArmor, as in a container. The files are written, nothing is loaded,
        and RV(enforced) is V(false).
      - Otherwise such a host is an error.
    type: bool
    default: false
  directory:
    description: Where the files are. Debian's apparmor.service loads this directory at boot.
    type: path
    default: /etc/apparmor.d
  record:
    description: Where the module writes which policy hash and mode the kernel had after loading, for whoever verifies.
    type: path
    default: /etc/cordon/apparmor.json
"""

EXAMPLES = r"""
- name: Load the cages
  cordon.agent_host.apparmor_profiles:
    profiles: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.apparmor_profiles }}"

- name: Take all cages away, once no agent runs
  cordon.agent_host.apparmor_profiles:
    profiles: []
"""

RETURN = r"""
enforced:
  description: Whether the kernel holds the profiles.
  returned: success
  type: bool
written:
  description: Files that were, or in check mode would be, written.
  returned: success
  type: list
  elements: str
  sample: [cordon.autopilot]
loaded:
  description: Why each profile was, or in check mode would be, loaded.
  returned: success
  type: dict
  sample: {cordon.autopilot: the kernel has it in complain}
removed:
  description: Profiles that were, or in check mode would be, removed from files and kernel.
  returned: success
  type: list
  elements: str
compared_by:
  description:
    - V(hash) where the kernel tells the hash of its policy, V(mode) where it tells the mode only, V(nothing) without
      AppArmor.
  returned: success
  type: str
  sample: hash
unenforced:
  description:
    - What the kernel does not enforce of the profiles, a C(class), C(why), its C(control) outside AppArmor, and what
      C(remains) open. The record keeps it.
  returned: success
  type: list
  elements: dict
  sample: [{class: userns, why: this kernel does not have it, control: RestrictNamespaces=, remains: ""}]
"""

import fcntl
import json
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_host as host
from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_plan as decide
from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_unenforced as gaps
from ansible_collections.cordon.agent_host.plugins.module_utils import _files

RECORD = _files.Entry("file", 0o640, 0, 0)


class State:
    """What is wanted, what is there, and what follows from both."""

    def __init__(self, module: AnsibleModule) -> None:
        self.wanted = [decide.Wanted(item["name"], item["mode"], item["text"]) for item in module.params["profiles"]]
        mistakes = decide.mistakes(self.wanted)
        if mistakes:
            raise host.Failed("; ".join(mistakes))
        self.directory: str = module.params["directory"]
        self.record: str = module.params["record"]
        self.kernel = host.kernel()
        if self.kernel is None and not module.params["allow_unenforced"]:
            raise host.Failed(
                "AppArmor cannot be had: %s. To go on without the cage, and have status and evidence say so, set"
                " agent_host_allow_unenforced: [apparmor]" % host.missing_because())
        self.files = host.files(self.directory)
        self.known = host.record(self.record)
        self.plan = decide.plan(self.wanted, self.files, self.kernel, self.known.get("profiles", {}))
        self.overrides = host.overrides(self.directory, [profile.name for profile in self.wanted])
        self.unenforced = self._unenforced()

    def _unenforced(self) -> List[Dict[str, str]]:
        if self.kernel is None:
            return gaps.nothing_enforced(host.missing_because()) if self.wanted else []
        return gaps.unenforced(host.features(), [profile.text for profile in self.wanted]) if self.wanted else []

    def pick(self, names: List[str]) -> List[decide.Wanted]:
        """The wanted profiles of these names."""
        chosen = set(names)
        return [profile for profile in self.wanted if profile.name in chosen]

    def new_record(self, kernel: Optional[decide.Kernel], loaded: List[str]) -> Dict[str, Any]:
        """The record of this host once these profiles were loaded."""
        return decide.new_record(self.wanted, kernel, self.known.get("profiles", {}), loaded, round(time.time(), 3),
                                 self.unenforced)

    @property
    def changed(self) -> bool:
        """Whether the host is not as it should be: files, kernel, links that override, or the record alone."""
        return (self.plan.anything() or bool(self.overrides)
                or self.known != self.new_record(self.kernel, []))


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Hold the policy directory: a second run at the same time waits for this one."""
    if not os.path.isdir(directory):
        yield
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Change:
    """Bring a host to the wanted state: compile, prepare the files, load, then let the files appear."""

    def __init__(self, module: AnsibleModule, state: State) -> None:
        # Not at the top of this file: an unchanged run has no use for it, and loading code is what such a run costs.
        from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_load as act
        from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_replace import Replacement

        self.module, self.state, self.act, self.replacement = module, state, act, Replacement
        self.compiled = act.Compiled({}, "", "")
        self.after = state.kernel

    def _parser(self) -> List[str]:
        """The parser's command, ended by timeout(1) if it hangs; [] when it is not installed."""
        parser, timeout = self.module.get_bin_path("apparmor_parser"), self.module.get_bin_path("timeout")
        limit = [timeout, "--kill-after=10", "%d" % self.act.SECONDS] if timeout else []
        return limit + [parser] if parser else []

    def compile(self) -> None:
        """Compile whatever differs; Failed, with nothing changed, for the first look at what cannot be loaded."""
        changing = self.state.pick(self.state.plan.write + self.state.plan.load)
        if not changing:
            return
        parser = self._parser()
        if not parser:
            if self.state.kernel is None or self.module.check_mode:
                return
            raise host.Failed("apparmor_parser is not installed: install the package apparmor")
        self.compiled = self._compile(parser, "new", changing)
        dropped = gaps.unexpected(self.compiled.messages, [entry["class"] for entry in self.state.unenforced])
        if dropped and self.state.kernel is not None:
            raise host.Failed("the parser would leave out rules that this kernel can enforce, or that nothing stands in for:"
                              " %s; is %s/abi as it was shipped (dpkg --verify apparmor)? Nothing was changed"
                              % (", ".join(dropped), self.state.directory))

    def _compile(self, parser: List[str], place: str, profiles: List[decide.Wanted]) -> Any:
        return self.act.compile_all(self.module.run_command, parser, os.path.join(self.module.tmpdir, place), profiles,
                                    self.state.directory)

    def _compile_again(self, names: List[str]) -> Dict[str, bytes]:
        old = [decide.Wanted(name, "", self.state.files[name] or "") for name in names if self.state.files.get(name)]
        return dict(self._compile(self._parser(), "old", old).blobs) if old else {}

    def apply(self) -> None:
        """All or nothing."""
        state = self.state
        kernel = self.act.Kernel(self._compile_again)
        with self.replacement() as files:
            try:
                self._prepare(files)
                now = self._load(kernel)
                record = json.dumps(state.new_record(now, state.plan.load), indent=2, sort_keys=True) + "\n"
                files.add(state.record, RECORD._replace(text=record))
                files.commit()
            except BaseException as problem:
                outcome = _outcome(kernel.put_back())
                if not isinstance(problem, (host.Failed, OSError, _files.UnsafePath)):
                    raise
                raise host.Failed("%s; %s" % (_said(problem), outcome)) from problem
        self._cache()

    def _prepare(self, files: Any) -> None:
        state = self.state
        for profile in state.pick(state.plan.write):
            files.add(os.path.join(state.directory, profile.name), host.FILE._replace(text=profile.text))
        for name in state.plan.remove:
            if name in state.files:
                files.add(os.path.join(state.directory, name), None)
        for path in state.overrides:
            files.add(path, None)

    def _load(self, kernel: Any) -> Optional[decide.Kernel]:
        """Load and remove in the kernel, and read back what it holds then."""
        state = self.state
        if state.kernel is None:
            return None
        kernel.load({name: self.compiled.blobs[name] for name in state.plan.load})
        kernel.remove([name for name in state.plan.remove if name in (state.kernel or {})])
        now = host.kernel() or {}
        wrong = self.act.not_as_loaded(state.wanted, now, {name: self.compiled.blobs[name] for name in state.plan.load})
        if wrong:
            raise host.Failed("the kernel reported no error, but %s" % ", ".join(wrong))
        self.after = now
        return now

    def _cache(self) -> None:
        """Only speed depends on this: the next boot compiles whatever is missing here or older than its file."""
        try:
            self.act.forget(self.state.plan.remove + self.state.plan.write + self.state.plan.load)
            if self.compiled.place and self.state.kernel is not None:
                self.act.keep_for_boot(self.compiled, self.state.directory)
        except OSError as problem:
            self.module.warn("the next boot has to compile the profiles: %s" % _said(problem))


def _said(problem: BaseException) -> str:
    if isinstance(problem, OSError):
        return "%s: %s" % (problem.filename or "AppArmor", problem.strerror or problem)
    return str(problem)


def _outcome(failed: List[str]) -> str:
    if failed:
        return "the files are as they were, but in the kernel these are not: %s" % "; ".join(failed)
    return "files and kernel are as they were"


def _diff(state: State) -> List[Dict[str, str]]:
    shown = []
    for profile in state.wanted:
        if profile.name in state.plan.write:
            path = os.path.join(state.directory, profile.name)
            shown.append(_change(path, state.files.get(profile.name) or "", profile.text))
        if profile.name in state.plan.reasons:
            loaded = (state.kernel or {}).get(profile.name)
            shown.append(_change("kernel: " + profile.name, "%s\n" % loaded["mode"] if loaded else "",
                                 "%s (%s)\n" % (profile.mode, state.plan.reasons[profile.name])))
    for name in state.plan.remove:
        before = state.files.get(name) or "loaded in the kernel only\n"
        shown.append(_change(os.path.join(state.directory, name), before, ""))
    return shown + [_change(path, "a link that overrides the profile's mode\n", "") for path in state.overrides]


def _change(header: str, before: str, after: str) -> Dict[str, str]:
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def _compared_by(kernel: Optional[decide.Kernel]) -> str:
    if kernel is None:
        return "nothing"
    return "hash" if all(found.get("hash") for found in kernel.values()) else "mode"


def run_module(module: AnsibleModule) -> Dict[str, Any]:
    """Compare, act unless this is a check, and tell what differed."""
    with _alone(module.params["directory"]):
        state = State(module)
        changed, kernel = state.changed, state.kernel
        if changed:
            change = Change(module, state)
            change.act.refuse_live(state.plan.remove)
            change.compile()
            if not module.check_mode:
                change.apply()
                kernel = change.after
    return {
        "changed": changed, "enforced": state.kernel is not None, "written": state.plan.write,
        "loaded": state.plan.reasons, "removed": state.plan.remove, "compared_by": _compared_by(kernel),
        "unenforced": state.unenforced, "diff": _diff(state),
    }


def main() -> None:
    """Ansible's entry point."""
    profile = {
        "name": {"type": "str", "required": True},
        "mode": {"type": "str", "choices": ["enforce", "complain"], "required": True},
        "text": {"type": "str", "required": True},
        "agent": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "profiles": {"type": "list", "elements": "dict", "required": True, "options": profile},
            "allow_unenforced": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/etc/apparmor.d"},
            "record": {"type": "path", "default": "/etc/cordon/apparmor.json"},
        },
        supports_check_mode=True,
        # Else every run writes all the texts into the journal.
        no_log=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    try:
        answer = run_module(module)
    except (host.Failed, OSError, _files.UnsafePath) as problem:
        module.fail_json(msg=_said(problem), invocation=_briefly(module))
    module.exit_json(invocation=_briefly(module), **answer)


def _briefly(module: AnsibleModule) -> Dict[str, Any]:
    """The parameters without the texts, which would be sent back whole with every answer."""
    names = [item["name"] for item in module.params["profiles"]]
    return {"module_args": dict(module.params, profiles=names)}


if __name__ == "__main__":
    main()
