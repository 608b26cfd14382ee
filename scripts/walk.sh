#!/bin/sh
# The README's tour with the real grpcurl, each answer checked: walk.sh embedded | postgres-redis
#
# embedded        runs the very lines that `voxgate dev` prints
# postgres-redis  runs the same lines, from their template, against migrate, serve and node-sim; then asks in plain text, by
#                 TLS and by mutual TLS, with reflection and without
#
# Everything runs on free ports in a folder of its own, and ends with this script. VOXGATE_BIN names another
# binary than target/debug/voxgate.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

backend=${1:-}
voxgate=${VOXGATE_BIN:-${CARGO_TARGET_DIR:-target}/debug/voxgate}
case $voxgate in /*) ;; *) voxgate=$PWD/$voxgate ;; esac
PATH=$PWD/.tools/bin:$PATH
has grpcurl || die "grpcurl is missing: run make setup-check"
[ -x "$voxgate" ] || die "$voxgate is missing: run cargo build"

dir=$(mktemp -d)
started= # process ids, the latest first
postgres=
finish() {
    status=$?
    trap - EXIT INT TERM
    for pid in $started; do
        # To Postgres TERM means: once every client has left.
        signal=TERM
        [ "$pid" != "$postgres" ] || signal=INT
        kill -"$signal" "$pid" 2>/dev/null || true
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 300 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ]; then
        for log in "$dir"/*.log; do
            [ -s "$log" ] || continue
            say "--- the end of ${log##*/}:"
            tail -n 30 "$log"
        done
    fi
    rm -rf "$dir"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Ports that were free a moment ago.
# shellcheck disable=SC2046 # a list of numbers
set -- $(perl -MIO::Socket::INET -e 'print map { $_->sockport . "\n" }
    map { IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") } 1 .. 6')
addr=127.0.0.1:$1
unset VOXGATE_DATABASE_URL VOXGATE_REDIS_URL VOXGATE_KEY
export VOXGATE_GRPC_ADDR="$addr" VOXGATE_ADMIN_ADDR="127.0.0.1:$2" VOXGATE_DATA_DIR="$dir/data"
# What is answered is looked at here, not how soon: a machine of many tenants may stand still for seconds.
export VOXGATE_CONFIG="$dir/voxgate.toml"
cat >"$VOXGATE_CONFIG" <<'TOML'
[database]
acquire_timeout_ms = 20_000
statement_timeout_ms = 20_000
[redis]
command_timeout_ms = 20_000
connect_timeout_ms = 20_000
TOML
postgres_port=$3
redis_port=$4
another=127.0.0.1:$5
another_admin=127.0.0.1:$6

# start NAME COMMAND…: in the background, its output in NAME.out and NAME.log.
start() {
    name=$1
    shift
    "$@" >"$dir/$name.out" 2>"$dir/$name.log" </dev/null &
    last=$!
    started="$last $started"
}

# await WHAT COMMAND…: until the command succeeds, for 60 s at most, while what was started last runs.
await() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        kill -0 "$last" 2>/dev/null || die "$backend: ended while waiting for $what"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "$backend: no sign of $what within 60 s"
        sleep 0.2
    done
}

serving() { grpcurl -plaintext -connect-timeout 1 -max-time 5 "$addr" grpc.health.v1.Health/Check | grep -q '"SERVING"'; }

start_embedded() {
    start dev "$voxgate" dev
    await "the printed lines" grep -q '^# --- end ---$' "$dir/dev.out"
    await "the service" serving
    sed -n '/^# --- paste these ---$/,/^# --- end ---$/p' "$dir/dev.out" | sed '1d;$d' >"$dir/lines"
}

start_postgres() {
    bin=$(postgres_bin)
    [ -n "$bin" ] || die "postgresql is missing: run make setup-test"
    mkdir "$dir/postgres"
    as=
    if [ "$(id -u)" -eq 0 ]; then
        # Postgres refuses to run as root.
        owner=$(id -un postgres 2>/dev/null || say nobody)
        chmod 711 "$dir"
        chown "$owner" "$dir/postgres"
        as="setpriv --reuid=$owner --regid=$(id -g "$owner") --clear-groups"
    fi
    # shellcheck disable=SC2086 # $as is a list of words, or nothing
    (cd "$dir/postgres" && $as "$bin/initdb" -D "$dir/postgres/db" -U postgres -A trust -E UTF8 --no-locale --no-sync) \
        >"$dir/initdb.log" 2>&1
    # shellcheck disable=SC2086
    start postgres $as "$bin/postgres" -D "$dir/postgres/db" -p "$postgres_port" -k "$dir/postgres" \
        -c listen_addresses=127.0.0.1 -c fsync=off
    postgres=$last
    await "Postgres" "$bin/pg_isready" -q -U postgres -d postgres -h 127.0.0.1 -p "$postgres_port"
    for sql in 'CREATE ROLE voxgate LOGIN' 'CREATE DATABASE voxgate OWNER voxgate'; do
        "$bin/psql" -q -U postgres -h 127.0.0.1 -p "$postgres_port" -d postgres -c "$sql"
    done
}

start_redis() {
    has redis-server || die "redis-server is missing: run make setup-test"
    start redis redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$dir" --save '' --appendonly no
    await "Redis" redis-cli -p "$redis_port" ping
}

start_production() {
    start_postgres
    start_redis
    export VOXGATE_DATABASE_URL="postgres://voxgate@127.0.0.1:$postgres_port/voxgate"
    VOXGATE_KEY_RING="walk:$(head -c 32 /dev/urandom | base64)"
    export VOXGATE_KEY_RING
    export VOXGATE_REDIS_URL="redis://127.0.0.1:$redis_port"
    "$voxgate" migrate >"$dir/migrate.log" 2>&1
    "$voxgate" tenant create --name demo >"$dir/tenant.log" 2>&1
    "$voxgate" key create --tenant demo --name walk --sandbox --scopes all >"$dir/key.out" 2>"$dir/key.log"
    sed -n 's/.*\(vg_test_[A-Za-z0-9_-]*\).*/\1/p' "$dir/key.out" | head -n 1 >"$dir/key"
    [ -s "$dir/key" ] || die "key create printed no vg_test_ key"
    start serve "$voxgate" serve
    await "the service" serving
    start node-sim env VOXGATE_KEY="$(cat "$dir/key")" "$voxgate" node-sim --sandbox
    await "the simulated node" grep -q 'is connected' "$dir/node-sim.out" "$dir/node-sim.log"
    sed -e "s|{ADDR}|$addr|g" -e "s|{KEY_FILE}|$dir/key|g" src/server/dev_lines.txt >"$dir/lines"
}

# answer PATTERN…: each must be in the answer of the line that just ran.
answer() {
    for pattern in "$@"; do
        grep -q -e "$pattern" "$dir/answer" || die "$backend: the answer lacks: $pattern"
    done
}
granted() {
    answer "\"callId\": \"$1\"" '"leaseId": "' '"fence": "' '"expiresAt": "' '"callbackToken": "vg_cb_'
    [ "$code" -eq 0 ] || die "$backend: grpcurl exited $code"
}
done_with() {
    answer '"state": "OPERATION_STATE_SUCCEEDED"' "\"outcome\": \"$1\""
    [ "$code" -eq 0 ] || die "$backend: grpcurl exited $code"
}

# Checks the answer of one line, by what the line asks for.
check() {
    case $1 in
    *CreateVoiceAgent*)
        answer '"name": "tour"' '"maxConcurrent": 2' '"status": "VOICE_AGENT_STATUS_ACTIVE"'
        [ -n "${AGENT:-}" ] || die "$backend: AGENT was not set"
        step=create ;;
    *call-1*AcquireSlot*)
        granted call-1
        [ -n "${TOKEN:-}" ] || die "$backend: TOKEN was not set"
        step=admit ;;
    *call-2*AcquireSlot*) granted call-2 && step=admit ;;
    *call-3*AcquireSlot*)
        [ "$code" -ne 0 ] || die "$backend: call-3 was admitted beyond max_concurrent"
        answer 'Code: ResourceExhausted' '"MAX_CONCURRENT_EXCEEDED"' 'google.rpc.ErrorInfo' \
            'google.rpc.QuotaFailure' 'google.rpc.RetryInfo' '"retryDelay": "'
        step=deny ;;
    *Transfer*) done_with SESSION_OUTCOME_TRANSFERRED_AGENT_QUEUE && step=transfer ;;
    *Hangup*) done_with SESSION_OUTCOME_HANGUP && step=hangup ;;
    *GetUsage*)
        # JSON leaves a zero out.
        answer '"limit": 2'
        if grep -q '"used": [1-9]' "$dir/answer"; then die "$backend: slots are still in use"; fi
        step=usage ;;
    *) return 0 ;;
    esac
    steps="$steps $step"
}

case $backend in
embedded) start_embedded ;;
postgres-redis) start_production ;;
*) die "usage: scripts/walk.sh embedded | postgres-redis" ;;
esac

steps=
while IFS= read -r line <&3; do
    [ -n "$line" ] || continue
    say "\$ $line"
    : >"$dir/answer"
    code=0
    # In this shell: a line may set what the next one uses.
    eval "$line" >>"$dir/answer" 2>&1 </dev/null 3<&- || code=$?
    cat "$dir/answer"
    check "$line"
done 3<"$dir/lines"

# What a person with grpcurl meets at a replica that speaks plain text, tls or mtls, and has reflection or not.
transports() {
    has openssl || die "openssl is missing: run make setup-check"
    for name in server client; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj "/CN=$name" \
            -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1,DNS:walk.example \
            -keyout "$dir/$name.key" -out "$dir/$name.crt" 2>"$dir/openssl.log"
    done
    for transport in plain tls mtls; do
        for reflection in true false; do
            transport "$transport" "$reflection"
        done
    done
}

transport() {
    config=$dir/$1-$2.toml
    {
        cat "$VOXGATE_CONFIG"
        printf '[listen]\nreflection = %s\ndrain_notice_ms = 0\n' "$2"
        [ "$1" = plain ] || printf '[tls]\ncert_file = "%s"\nkey_file = "%s"\n' "$dir/server.crt" "$dir/server.key"
        [ "$1" != mtls ] || printf 'client_ca_file = "%s"\nclient_certs = "required"\n' "$dir/client.crt"
    } >"$config"
    start "serve-$1-$2" env VOXGATE_CONFIG="$config" VOXGATE_GRPC_ADDR="$another" VOXGATE_ADMIN_ADDR="$another_admin" \
        "$voxgate" serve
    case $1 in
    plain) options=-plaintext ;;
    tls) options="-cacert $dir/server.crt" ;;
    mtls) options="-cacert $dir/server.crt -cert $dir/client.crt -key $dir/client.key" ;;
    esac
    files='-import-path proto -proto voxgate/v1/voice_agent_service.proto'
    list=voxgate.v1.VoiceAgentService/ListVoiceAgents
    # shellcheck disable=SC2086 # lists of words
    ask() { grpcurl $options -connect-timeout 2 -max-time 10 -H "authorization: Bearer $(cat "$dir/key")" "$@"; }
    # With the files it works by each.
    # shellcheck disable=SC2086
    await "an answer by $1" ask $files "$another" "$list"
    if [ "$2" = true ]; then
        ask "$another" list >"$dir/answer" 2>&1 || die "$1: $(cat "$dir/answer")"
        answer '^voxgate.v1.AdmissionService$' '^grpc.health.v1.Health$'
        ask "$another" "$list" | grep -q '"totalSize"' || die "$1: no agents by reflection"
    else
        if ask "$another" list >"$dir/answer" 2>&1; then die "$1: it lists its services, without reflection"; fi
        answer 'does not support the reflection API'
    fi
    # Who speaks otherwise is told so, and soon.
    case $1 in
    plain) options="-cacert $dir/server.crt" told='first record does not look like a TLS handshake' ;;
    tls) options=-plaintext told='.' ;;
    mtls) options="-cacert $dir/server.crt" told='certificate required' ;;
    esac
    # shellcheck disable=SC2086
    if ask $files "$another" "$list" >"$dir/answer" 2>&1; then die "$1: it answers to $options too"; fi
    answer "$told"
    kill "$last"
    wait "$last" || die "$1: it did not end well"
    say "grpcurl: $1, reflection $2: as it should be"
}

[ "$backend" != postgres-redis ] || transports

expected=' create admit admit deny transfer hangup usage'
[ "$steps" = "$expected" ] || die "$backend: walked$steps, not$expected"
say "walk: $backend passed"
