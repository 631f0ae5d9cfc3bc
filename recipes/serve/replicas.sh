#!/bin/sh
# Several servers of one artifact on this machine, on ports 8001, 8002, ...; ends them all when it is ended.
#     sh recipes/serve/replicas.sh ARTIFACT [COUNT]
set -eu
artifact=$1
count=${2:-2}
threads=$(($(nproc) / count))
trap 'kill $(jobs -p) 2>/dev/null; wait' INT TERM EXIT
for index in $(seq "$count"); do
    compress serve "$artifact" --port $((8000 + index)) --threads "$((threads > 0 ? threads : 1))" &
done
wait
