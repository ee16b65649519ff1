# shellcheck shell=bash
# The coder's work. Each function runs in an empty directory of the workspace, with `set -eux`.
# shellcheck disable=SC2016
identity() {
    git config --global user.name Coder
    git config --global user.email coder@example.net
    git config --global init.defaultBranch main
    git config --global --list | grep coder@example.net
}

git_over_ssh() {
    git clone -q ssh://git@203.0.113.10/srv/git/project.git .
    printf '#!/bin/sh\ntouch "$(git rev-parse --git-dir)/hook-ran"\n' > .git/hooks/pre-commit
    chmod +x .git/hooks/pre-commit
    git switch -qc over-ssh
    date +%s%N >> numbers
    git commit -qam "Add a number"
    test -e .git/hook-ran
    git push -q -f origin over-ssh
    test "$(git ls-remote origin refs/heads/over-ssh | cut -f1)" = "$(git rev-parse HEAD)"
    git log --oneline --stat -2
    git stash list
    git -c core.pager=less log -1
}

git_over_https() {
    git clone -q https://203.0.113.10/project.git .
    git switch -qc over-https
    date +%s%N >> numbers
    git commit -qam "Add another number"
    git push -q -f origin over-https
    git fetch -q --all
    test "$(git ls-remote origin refs/heads/over-https | cut -f1)" = "$(git rev-parse HEAD)"
    git rebase -q origin/main
    git diff origin/main | patch --dry-run -R -p1
    git archive --format=tar.gz -o a.tar.gz HEAD
    tar -tzf a.tar.gz | grep numbers
}

signed_commit() {
    gpg --batch --import ~/.vault/signing_key
    git init -q .
    echo one > a
    git add a
    git commit -qS -m "Sign this"
    git verify-commit HEAD
}

python_package() {
    python3 -m venv venv
    venv/bin/pip install -q --index-url https://203.0.113.11/simple pytest idna
    curl -sSO https://203.0.113.11/files/idna-3.7.tar.gz
    tar -xzf idna-3.7.tar.gz
    venv/bin/python -m pytest -q idna-3.7/tests
}

distribution_pip() {
    pip3 download -q --no-deps --index-url https://203.0.113.11/simple -d wheels packaging
    python3 -m zipfile -l wheels/packaging-*.whl | head -3
}

node_package() {
    printf '{"scripts": {"test": "node index.js > out && cat out"}}\n' > package.json
    echo "console.log(require('greet')('node'))" > index.js
    npm install --no-audit --no-fund greet
    npm test | grep 'hello, node'
    node -e "const {execFileSync} = require('child_process'); console.log(execFileSync('git', ['--version']).toString())"
}

c_program() {
    cat > main.c << 'END'
#include <math.h>
#include <stdio.h>
int main(void) { printf("%.0f\n", sqrt(1764.0)); return 0; }
END
    printf 'CFLAGS = -O2 -g -Wall\nLDLIBS = -lm\nall: main\n' > Makefile
    make
    ./main | grep 42
    cp main copy
    ./copy | grep 42
    ctags -f tags main.c
    file main | grep ELF
    strip main
}

archives() {
    mkdir a
    seq 1000 > a/one
    tar -czf a.tar.gz a
    tar -cJf a.tar.xz a
    zip -qr a.zip a
    rm -r a
    tar -xzf a.tar.gz
    tar -xJf a.tar.xz
    unzip -qo a.zip
    gzip -k a/one
    zgrep -c 99 a/one.gz
    xz -dc a.tar.xz | tar -t
    sha256sum a/one
}

search_and_edit() {
    printf 'alpha\nbeta\n' > a
    vim -es -c '%s/alpha/gamma/' -c 'wq' a
    rg gamma a
    vim -es -c '%!sort -r' -c 'wq' a
    head -1 a | grep gamma
    cp a b
    sed -i s/beta/delta/ b
    { diff -u a b > p || true; } # exit code 1: they differ, which patch and cmp below prove
    patch -s a p
    cmp a b
    less a | grep delta
    find . -name a -exec grep -l delta {} +
    xargs -n1 echo < a
    awk '{print length($0)}' a
    fdfind a .
    printf '#!/bin/sh\necho "$1"\n' > s.sh
    shellcheck s.sh
}

# As somebody types at a terminal: each answer waits until the program has said what it waits for.
at_a_terminal() {
    cat > typist.py << 'END'
import os, pty, re, sys

def type_at(argv, *talk):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, {**os.environ, "TERM": "xterm", "LESS": "", "PAGER": "less"})
    said = b""
    for awaited, keys in talk:
        while not re.search(awaited, said):
            said += os.read(terminal, 4096)
        said = b""
        os.write(terminal, keys)
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:  # EIO: the program has closed its end
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"{argv}: exit code {code}"

lines = "\n".join(f"line {number}" for number in range(500))
open("long", "w").write(lines + "\n")
type_at(["vim", "typed"], (rb"typed", b"ihello from a terminal\x1b:wq\r"))
assert open("typed").read() == "hello from a terminal\n"
type_at(["less", "long"], (rb"line 5", b"G"), (rb"line 499", b"?line 77\r"), (rb"line 77", b"q"))
type_at(["man", "ls"], (rb"LS.*\(1\)", b"q"))
type_at(["git", "-c", "core.editor=vim", "config", "--file", "made", "--edit"], (rb"made", b"i[a]\rb = c\x1b:wq\r"))
assert "b = c" in open("made").read()
END
    timeout 240 python3 typist.py
}

manual() {
    man ls | grep -q 'list directory'
    man -f ls
    man -k '^ls$'
    man -P cat printf > printf.txt
    grep -q PRINTF printf.txt
}

https_call() {
    curl -sS https://203.0.113.10/health | jq -e .healthy
    curl -sSo health.json https://203.0.113.10/health
    python3 -c "import json, urllib.request as u; assert json.load(u.urlopen('https://203.0.113.10/health'))['healthy']"
    node -e "require('https').get('https://203.0.113.10/health', (a) => process.exit(a.statusCode === 200 ? 0 : 1))"
}
