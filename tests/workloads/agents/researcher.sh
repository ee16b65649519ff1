# shellcheck shell=bash
# The researcher's work: a sandbox of its own around what it does not trust.
sandbox() {
    bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all cat /proc/self/attr/current > label
    grep -F 'cordon.researcher//&cordon.researcher.main (enforce)' label
    bwrap --ro-bind /usr /usr --symlink usr/lib64 /lib64 --symlink usr/lib /lib --symlink usr/bin /bin --ro-bind /etc /etc \
        --bind "$PWD" "$PWD" --chdir "$PWD" --dev /dev --proc /proc --tmpfs /tmp --unshare-all --die-with-parent \
        python3 -c 'open("made", "w").write("inside")'
    grep inside made
}
