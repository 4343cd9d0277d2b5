# Starts a private server, and compares the processor time that scripts of pgbench cost it. Sourced by the scripts of this
# folder. The machine must be idle.

rounds=${1:-12} seconds=${2:-5}
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
folder=$(mktemp -d)
as=()
if [ "$(id -u)" = 0 ]; then
    chown postgres "$folder"
    as=(runuser -u postgres --)
fi
stop() {
    "${as[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --mode immediate --silent stop || true
    rm -rf "$folder"
}
trap stop EXIT
"${as[@]}" "$bin/initdb" --pgdata "$folder/data" --no-sync --auth trust --username postgres >"$folder/log"
# The last two are settings of the store's own connections.
settings=(-k "$folder" -c listen_addresses= -c fsync=off -c autovacuum=off -c shared_buffers=512MB
    -c plan_cache_mode=force_generic_plan -c jit=off)
"${as[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --silent --wait --log "$folder/server.log" \
    --options "${settings[*]}" start
export PGHOST=$folder PGUSER=postgres PGDATABASE=postgres

# The processor time of the server's ended children, in ticks of 10 ms.
ticks() {
    sed 's/.*) //' "/proc/$(head -1 "$folder/data/postmaster.pid")/stat" | awk '{ print $14 + $15 }'
}

# The server's microseconds for one run of the script with this name, by one client.
microseconds() {
    local before count
    before=$(ticks)
    count=$("$bin/pgbench" --no-vacuum --protocol prepared --client 1 --time "$seconds" --file "$folder/$1.sql" |
        sed -n 's/^number of transactions actually processed: //p')
    sleep 0.2
    echo "$before $(ticks) $count" | awk '{ printf "%.2f", ($2 - $1) * 10000 / $3 }'
}

# Runs the scripts in turns, and prints the time of each in each round, the medians, and their ratios to the first one.
compare() {
    local script round
    for script in "$@"; do microseconds "$script" >"$folder/log"; done
    echo "round $*"
    for round in $(seq "$rounds"); do
        for script in "$@"; do echo "$(microseconds "$script")" >>"$folder/$script.times"; done
        echo "$round $(for script in "$@"; do tail -1 "$folder/$script.times"; done | xargs)"
    done
    echo "median $(for script in "$@"; do median "$script"; done | xargs)"
    echo "ratio $(for script in "$@"; do median "$script" "$1"; done | xargs)"
}

# The median of the times of a script, divided by that of another one if there is one.
median() {
    local of=1
    [ $# = 1 ] || of=$(median "$2")
    sort -n "$folder/$1.times" | awk -v of="$of" '{ r[NR] = $1 } END {
        printf "%.3f", (NR % 2 ? r[(NR + 1) / 2] : (r[NR / 2] + r[NR / 2 + 1]) / 2) / of }'
    echo
}
