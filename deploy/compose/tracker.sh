#!/bin/sh
# tracker.sh FOLDER [PORT [ADDRESS]]: run opentracker with FOLDER/whitelist.txt, and make it read that file again
# whenever it was replaced.
set -eu
folder=$1 port=${2:-6969} address=${3:-0.0.0.0}
whitelist=$folder/whitelist.txt

[ -e "$whitelist" ] || : >"$whitelist"
read=$(stat -c %i.%Y "$whitelist")
opentracker -i "$address" -p "$port" -P "$port" -d "$folder" -w "$whitelist" &
tracker=$!
trap 'kill "$tracker"; exit 0' TERM INT
while sleep 2 & wait $!; kill -0 "$tracker"; do
    now=$(stat -c %i.%Y "$whitelist")
    if [ "$now" != "$read" ]; then
        read=$now
        kill -HUP "$tracker"
    fi
done
wait "$tracker"
