# shellcheck shell=bash
# The operator's work. Each function runs in an empty directory of the workspace, with `set -eux`.
look_around() {
    redis-cli -h 203.0.113.22 ping | grep PONG
    ps -u "$(id -un)"
    df -h . || true # the unit hides mounts from it; the suite still fails for a refusal by AppArmor
    nproc
    echo works | openssl enc -aes-256-cbc -pbkdf2 -k secret | openssl enc -d -aes-256-cbc -pbkdf2 -k secret | grep works
    xxd -l 4 /etc/os-release
    rg -c PRETTY /etc/os-release
}
