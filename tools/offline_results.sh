#!/usr/bin/env bash
# Trains and evaluates what docs/results.md reports for one dataset: three seeds of Reinformer and of IQL, each pair
# evaluated at the last checkpoint, 10 episodes per setting. The settings were fixed before any of it was run.
#
#   tools/offline_results.sh DATASET RUNS        e.g. local/hopper/medium-replay-v0 runs/hopper-medium-replay
#
# The evaluations lie in RUNS/seed-S.json; a run that was interrupted is continued.
set -euo pipefail
dataset=${1:?dataset id} runs=${2:?folder for the runs}
policy=(--d-model 128 --n-layer 3 --n-head 4 --batch-size 64 --lr 3e-3 --warmup 1000 --timestep-std 0.02 --updates 5000)
critic=(--updates 30000)
train() {
    local out=$1
    shift
    dtag train "$@" --out "$out" --threads 1 $([ -e "$out/config.json" ] && echo --resume)
}
for seed in 0 1 2; do
    train "$runs/reinformer-$seed" reinformer "$dataset" --seed "$seed" "${policy[@]}"
    train "$runs/iql-$seed" iql "$dataset" --seed "$seed" "${critic[@]}"
    dtag evaluate "$runs/reinformer-$seed" --critic "$runs/iql-$seed" --ag-steps 0,5,10 --ag-lr 0.01,0.03 \
        --episodes 10 --seed 1000 --json "$runs/seed-$seed.json"
done
