# shellcheck shell=bash
# The writer's work. Each function runs in an empty directory of the workspace, with `set -eux`.
editors() {
    printf 'a\none\ntwo\n.\nw text\nq\n' | ed -s
    printf ',s/one/three/\nw\nq\n' | ed -s text
    grep three text
    vim -es -c 'normal Gofour' -c 'wq' text
    grep four text
    less text
}

scripts() {
    printf 'gamma\nalpha\n' > words
    perl -MFile::Spec -ne 'print lc' words
    perl -pi -e 's/gamma/delta/' words
    ruby -rjson -e 'puts JSON.pretty_generate(File.readlines("words", chomp: true).sort)' > words.json
    php -r 'echo json_decode(file_get_contents("words.json"))[0], "\n";' | grep alpha
    zip -q words.zip words words.json
    unzip -l words.zip
    tree .
    echo '<doc><p>delta</p></doc>' > doc.xml
    xmllint --noout doc.xml
    xmllint --xpath '//p/text()' doc.xml | grep delta
    file doc.xml
}

manual() {
    man 1 tree | head -5
    man -K -s 1 nosuchwordanywhere || true # finds nothing; searching all pages is the work, a refusal still fails the suite
    pod2text /usr/share/perl/*/pod/perlcheat.pod 2> /dev/null | head -3 || perl -e 'print "no pod\n"'
}

fetch() {
    wget -q --no-hsts -O health.json https://203.0.113.10/health
    curl -sS https://203.0.113.10/health | cmp - health.json
}
