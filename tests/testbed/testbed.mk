# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The test bed's targets; included from the Makefile. tests/testbed/README.md explains the variables.
TESTBED_DIR ?= build/testbed
VMS ?= 1
SUITE ?= bookworm
TESTBED_PYTHON ?= python3
testbed = PYTHONPATH=tests TESTBED_DIR='$(TESTBED_DIR)' VMS='$(VMS)' SUITE='$(SUITE)' $(TESTBED_PYTHON) -B -m testbed

.PHONY: vm vm-down vm-reboot vm-ssh

vm: ## Boot VMS guests of SUITE and leave them running
	@exec env $(testbed) up

vm-down: ## End the guests of TESTBED_DIR
	@exec env $(testbed) down

vm-reboot: ## Boot the guests of TESTBED_DIR again, with KERNEL (apparmor=0) at the end of their kernel's command line; TESTBED_TPM=other swaps the TPM
	@exec env $(testbed) reboot $(KERNEL)

vm-ssh: ## Log in to HOST (default agenthost-1), or run CMD there
	@exec env $(testbed) ssh $(or $(HOST),agenthost-1) $(CMD)
