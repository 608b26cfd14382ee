#!/bin/sh
# Fuzzes what comes from outside (fuzz/properties), one target after the other. Fails if there is a finding.
#
#   scripts/fuzz.sh [SECONDS [TARGET…]]   each target for so long, 600 if not said
#   scripts/fuzz.sh keep [TARGET…]        adds what the runs reached beyond fuzz/corpus to it, as little as covers it
#
# What a run makes up is kept in fuzz/target/corpus for the next one; a finding is a file in fuzz/artifacts. The
# corpus of the repository is only read, and replayed by `make test` without any of this.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh
PATH=$tools/bin:$PATH

# Of one input; of the process; of what one input may take. A slow input is a finding as a crash is one.
TIMEOUT_SECONDS=10
MEMORY_MB=2048
max_bytes() {
    case $1 in
    dtmf) say 256 ;;
    destination | trace) say 1024 ;;
    token) say 2200 ;;
    json_schema) say 4096 ;;
    struct_value) say 20000 ;;
    *) die "scripts/fuzz.sh does not say how long an input of $1 may be" ;;
    esac
}

install_cargo_fuzz() { cargo_install "cargo-fuzz@$1"; }
once cargo-fuzz "$CARGO_FUZZ_VERSION" install_cargo_fuzz
rustup run "$FUZZ_TOOLCHAIN" rustc --version >/dev/null 2>&1 ||
    rustup toolchain install "$FUZZ_TOOLCHAIN" --profile minimal --no-self-update
# cargo-fuzz has no --locked of its own.
fuzz() { CARGO_NET_OFFLINE=true cargo "+$FUZZ_TOOLCHAIN" fuzz "$@"; }

work=fuzz/target/corpus
logs=fuzz/target/logs
mkdir -p "$logs"

files_in() { find "$1" -type f 2>/dev/null | wc -l; }
# The last word of NAME in a log of libFuzzer.
last_stat() { sed -n "s/^stat::$1: *//p" "$2" | tail -1; }
seen() { grep -o "$1: [^ ]*" "$2" | tail -1 | cut -d' ' -f2; }

run() {
    log=$logs/$1.log
    mkdir -p "$work/$1"
    words=fuzz/dictionaries/$1.dict
    [ -e "$words" ] || words=
    before=$(files_in "fuzz/artifacts/$1")
    fuzz run "$1" "$work/$1" "fuzz/corpus/$1" -- -max_total_time="$seconds" -max_len="$(max_bytes "$1")" \
        -timeout="$TIMEOUT_SECONDS" -rss_limit_mb="$MEMORY_MB" ${words:+"-dict=$words"} -print_final_stats=1 >"$log" 2>&1 &&
        status=0 || status=$?
    findings=$(($(files_in "fuzz/artifacts/$1") - before))
    printf '%-13s %10s executions %7s/s  coverage %6s  corpus %12s  findings %s\n' "$1" \
        "$(last_stat number_of_executed_units "$log")" "$(last_stat average_exec_per_sec "$log")" \
        "$(seen cov "$log")" "$(seen corp "$log")" "$findings"
    [ "$status" -eq 0 ] || { failed=yes && say "  failed, see $log"; }
}

# Edges decide, not how often each was taken: a corpus in a repository is to be small.
keep() {
    [ -d "$work/$1" ] || die "nothing was run for $1 here"
    fuzz run "$1" "fuzz/corpus/$1" "$work/$1" -- -set_cover_merge=1 -use_counters=0 -max_len="$(max_bytes "$1")" \
        -timeout="$TIMEOUT_SECONDS" -rss_limit_mb="$MEMORY_MB" >"$logs/$1-keep.log" 2>&1 || die "see $logs/$1-keep.log"
    say "$1: $(files_in "fuzz/corpus/$1") files"
}

action=run
case ${1:-} in
keep) action=keep ;;
*) seconds=${1:-600} ;;
esac
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
    for folder in fuzz/corpus/*/; do set -- "$@" "$(basename "$folder")"; done
fi

cargo "+$FUZZ_TOOLCHAIN" fetch --quiet --locked --manifest-path fuzz/Cargo.toml
fuzz build >"$logs/build.log" 2>&1 || die "the targets do not build, see $logs/build.log"
failed=
for target; do
    "$action" "$target"
done
[ -z "$failed" ] || die "not clean: mend what is wrong, and keep the input in fuzz/corpus under a name that says what it was"
