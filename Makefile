# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# `make help` lists the targets. The stages themselves are tests/setup/stages/*; CONTRIBUTING.md explains them.
PYTHON ?= python3
SHELL := /bin/bash
stages := $(PYTHON) -B tests/setup/run_stages.py

.DEFAULT_GOAL := help
.PHONY: help setup test lint sanity unit build container vm-test vault-guest vault-rounds neighbours workloads clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | sort | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: ## Install what the tests and the demo need (virtual environments, Debian packages)
	@$(PYTHON) -B tests/setup/prepare.py

test: ## Set up, then prove everything: lint, sanity, unit, build, container, vm and workloads
	@$(stages)

lint: ## ansible-lint (production), yamllint, ruff, mypy, shellcheck
	@$(stages) setup lint

sanity: ## ansible-test sanity with each ansible-core
	@$(stages) setup sanity-2.19 sanity-2.21

unit: ## Unit tests with each ansible-core
	@$(stages) setup unit-2.19 unit-2.21

build: ## Build the tarball, judge it, install it, and smoke-test the installation
	@$(stages) setup build

container: ## Molecule's scenario `default`, in a container, with each ansible-core
	@$(stages) setup container-2.19 container-2.21

vm-test: ## Molecule's scenario `vm`, on a booted kernel
	@$(stages) setup vm

vault-guest: ## Molecule's scenario `vault`: vaults under systemd, with a TPM, losses of power, each way that a session ends
	@$(stages) setup vault-guest

vault-rounds: ## The same with 200 ends of sessions instead of one of each cause
	@VAULT_ROUNDS=all $(stages) setup vault-guest

neighbours: ## Molecule's scenario `neighbours`: beside Docker, ufw, firewalld and fail2ban
	@$(stages) setup neighbours

workloads: ## Real work of eight agents in enforce, on a booted guest with every tool of the catalogue
	@$(stages) setup workloads

clean: vm-down ## Remove what was built (the image cache in ~/.cache/cordon-testbed stays)
	rm -rf build

include tests/testbed/testbed.mk
-include tests/demo/demo.mk
-include tests/bench/bench.mk
