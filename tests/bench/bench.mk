# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
.PHONY: bench

bench: setup vm ## Measure what AppArmor and opening a vault cost, on the guest of TESTBED_DIR (its own profiles are taken away)
	@TESTBED_DIR='$(TESTBED_DIR)' build/venv/bin/python -B tests/bench/vault.py
	@TESTBED_DIR='$(TESTBED_DIR)' build/venv/bin/python -B tests/bench/apparmor.py
