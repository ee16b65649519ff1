# shellcheck shell=bash
# The release agent's work. Each function runs in an empty directory of the workspace, with `set -eux`.
signed_release() {
    gpg --batch --import ~/.vault/signing_key
    seq 10 > numbers
    tar -czf release.tar.gz numbers
    gpg --batch --armor --detach-sign release.tar.gz
    gpg --verify release.tar.gz.asc release.tar.gz
    openssl dgst -sha256 release.tar.gz
    curl -sSf -H @"$HOME/.vault/upload_token" -T release.tar.gz https://203.0.113.10/upload | jq -e '.bytes > 0'
}

large_files() {
    git init -q .
    git lfs install --local
    git lfs track '*.bin'
    head -c 100000 /dev/zero > a.bin
    git add .gitattributes a.bin
    git -c user.name=r -c user.email=r@example.net commit -qm "Add a large file"
    git lfs ls-files | grep a.bin
    git show HEAD:a.bin | grep 'git-lfs'
}
