# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
# What the stages share. A stage's exit status: 0 passed, 77 skipped (its last line says why), else failed.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
ROOT=$PWD
BUILD=$ROOT/build
export ANSIBLE_HOME=$BUILD/ansible-home ANSIBLE_LOCAL_TEMP=$BUILD/ansible-home/tmp
export ANSIBLE_NOCOLOR=1 NO_COLOR=1 PY_COLORS=0 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A developer's own settings must not decide what the tests prove.
unset ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH ANSIBLE_INVENTORY ANSIBLE_VAULT_PASSWORD_FILE

skip() {
    echo "$*"
    exit 77
}

# use_core 2.19|2.21: put that core's virtual environment first in PATH.
use_core() {
    case $1 in
        2.19) VENV=$BUILD/venv ;;
        2.21) VENV=$BUILD/venv-2.21 ;;
        *) echo "which core? 2.19 or 2.21" >&2; exit 2 ;;
    esac
    if [ ! -e "$VENV/stamp" ]; then
        [ "$1" != 2.19 ] || { echo "run \`make setup\` first" >&2; exit 1; }
        skip "no Python for ansible-core $1 on this machine (make setup says which)"
    fi
    export PATH=$VENV/bin:$PATH
    export PYTHON=$VENV/bin/python
}

# need PROGRAM PACKAGE: fail with the remedy when it is not there.
need() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" > /dev/null && return
    echo "$1 is not installed: apt-get install $2 (or make setup as root)" >&2
    exit 1
}

# Files that git would commit: tracked or new, not ignored, not deleted.
tree_files() {
    git ls-files -co --exclude-standard -z | while IFS= read -r -d '' file; do
        [ -e "$file" ] && printf '%s\0' "$file"
    done
}

# Of these, what the collection ships, and the tests that ansible-test knows. The rest is for linters of its kind.
shipped_files() {
    tree_files | grep -zE '^([^/]*|(changelogs|docs|meta|playbooks|plugins|roles|tests/sanity)/.*)$'
}

# copy_tree DIRECTORY [LISTING]: the collection under a search path, as DIRECTORY/ansible_collections/cordon/agent_host.
# ansible-test refuses any other place, and no tool may litter the work tree.
copy_tree() {
    COPY=$1/ansible_collections/cordon/agent_host
    rm -rf "$COPY"
    mkdir -p "$COPY"
    "${2:-tree_files}" | rsync -a --from0 --files-from=- --ignore-missing-args ./ "$COPY/"
    # A repository of its own: tools that ask git would otherwise be told that everything under build/ is ignored.
    git -C "$COPY" init --quiet
    git -C "$COPY" add --all --force
}
