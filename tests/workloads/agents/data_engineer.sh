# shellcheck shell=bash
# The data engineer's work. Each function runs in an empty directory of the workspace, with `set -eux`.
move_data() {
    wget -q --no-hsts https://203.0.113.11/npm/greet
    jq -e '.versions["1.0.0"].dependencies.words' greet
    curl -sSf -H @"$HOME/.vault/api_token" -T greet https://203.0.113.11/upload
    sqlite3 a.db 'create table t (a); insert into t values (1)'
    mkdir out
    rsync -a --include='*.db' --exclude='*' ./ out/
    tar --zstd -cf out.tar.zst out
    zstd -dc out.tar.zst | tar -t | grep a.db
    redis-cli -h 203.0.113.22 -x set data < greet
    echo '<a><b>1</b></a>' | xmllint --format -
    python3 -c "import csv, sys; csv.writer(sys.stdout).writerow([1, 2])"
}

ssh_without_a_key() {
    ssh-keygen -q -t ed25519 -N '' -f key
    test -s key.pub
    ssh -G example.net | grep 'known_hosts'
}
