# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
.PHONY: demo

demo: setup ## Boot a guest, provision it, and try the article's attacks on it (the main job)
	@$(PYTHON) -B tests/demo/demo.py
