# shellcheck shell=bash
# The builder's work. Each function runs in an empty directory of the workspace, with `set -eux`.
git_clone() {
    git clone -q ssh://git@203.0.113.10/srv/git/project.git .
    grep two numbers
}

rust_program() {
    mkdir src
    printf '[package]\nname = "hello"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
    # shellcheck disable=SC2016
    echo 'fn main() { println!("{}", (1..=4).product::<u32>()); }' > src/main.rs
    cargo --offline build
    target/debug/hello | grep 24
}

go_program() {
    printf 'module example.net/hello\n\ngo 1.19\n' > go.mod
    printf 'package main\n\nfunc main() { println("hello from go") }\n' > main.go
    go vet ./...
    go build -o hello .
    ./hello 2>&1 | grep 'hello from go'
}

java_program() {
    cat > Hello.java << 'END'
class Hello { public static void main(String[] a) { System.out.println("hello from " + System.getProperty("java.version")); } }
END
    # -Xint: a JVM patches code that it compiled while another core runs it, and the emulator does not always see that in
    # time (SIGSEGV in compiled code, seen once in five runs). AppArmor has no say over such memory.
    javac -J-Xint Hello.java
    java -Xint -cp . Hello | grep 'hello from'
    jar -cf hello.jar Hello.class
}

cpp_project() {
    printf 'cmake_minimum_required(VERSION 3.18)\nproject(hello CXX)\nadd_executable(hello main.cpp)\nenable_testing()\nadd_test(NAME runs COMMAND hello)\n' > CMakeLists.txt
    printf '#include <iostream>\nint main() { std::cout << "hello from c++\\n"; }\n' > main.cpp
    cmake -G Ninja -B build .
    cmake --build build
    build/hello | grep c++
    ctest --test-dir build
    cmake -G 'Unix Makefiles' -B make .
    make -C make
    time make/hello
}

fetch_and_sign() {
    wget -q --no-hsts https://203.0.113.11/simple/idna/
    curl -sS https://203.0.113.11/simple/idna/ | cmp - index.html
    openssl pkeyutl -sign -rawin -inkey ~/.vault/code_signing_key -in index.html -out index.sig
    test -s index.sig
}

compressors() {
    seq 1000 > a
    for tool in gzip bzip2 xz zstd; do
        $tool -k a
        rm a
        case $tool in gzip) gunzip a.gz ;; bzip2) bunzip2 a.bz2 ;; xz) unxz a.xz ;; zstd) unzstd -q --rm a.zst ;; esac
        tar --use-compress-program=$tool -cf a.tar.$tool a
        tar -tf a.tar.$tool
    done
    wc -l a
}
