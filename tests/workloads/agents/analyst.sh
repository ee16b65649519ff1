# shellcheck shell=bash
# The analyst's work. Each function runs in an empty directory of the workspace, with `set -eux`.
postgresql() {
    psql -q -c 'drop table if exists orders' -c 'create table orders (id serial, total numeric)'
    seq 5 | psql -q -c '\copy orders (total) from stdin'
    psql -At -c 'select sum(total) from orders' | grep 15
    psql --csv -c 'select * from orders' -o orders.csv
    pg_dump -t orders > orders.sql
    grep 'COPY public.orders' orders.sql
    pg_dump -Fc -f orders.dump
    psql -q -c 'drop table orders'
    pg_restore -d sales orders.dump
    psql -At -c 'select count(*) from orders' | grep 5
    # shellcheck disable=SC1003
    psql -c '\! echo started by psql'
    pg_dump | xz > all.sql.xz
    pg_isready
}

sqlite() {
    printf 'id,total\n1,2\n2,3\n' > in.csv
    sqlite3 sales.db '.mode csv' '.import in.csv orders' 'select sum(total) from orders' | grep 5
    sqlite3 sales.db .dump > sales.sql
    sqlite3 -json sales.db 'select * from orders' | jq -e '.[1].total == "3"'
    python3 -c "import sqlite3; print(sqlite3.connect('sales.db').execute('select count(*) from orders').fetchone())"
}

redis() {
    redis-cli -h 203.0.113.22 set answer 42
    redis-cli -h 203.0.113.22 get answer | grep 42
}

locale_and_time_zone() {
    date -d '2024-07-01 12:00 UTC' +'%A %H:%M' | grep 'Montag 14:00'
    LANG=C.UTF-8 date -d '2024-07-01 12:00 UTC' +%A | grep Monday
    TZ=Asia/Tokyo date -d '2024-07-01 12:00 UTC' +%H | grep 21
    locale -a | grep -i de_DE
    locale charmap | grep UTF-8
    printf 'z\nä\na\n' | sort | head -2 | tail -1 | grep ä
    python3 -c "import locale, time; locale.setlocale(locale.LC_ALL, ''); print(locale.str(1.5), time.tzname)" | grep '1,5.*CET'
    python3 -c "import zoneinfo; print(zoneinfo.ZoneInfo('America/New_York'))"
    printf 'ä' | iconv -f UTF-8 -t ISO-8859-1 | od -An -tx1 | grep e4
}
