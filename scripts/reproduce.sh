#!/usr/bin/env bash
# Retrains a row of results/leaderboard.json from scratch with its seeds and compares the result with the row.
#
#     scripts/reproduce.sh NAME [OPTION OF NAS TRAIN ...]
#
# On the same kind of processor every epoch is reproduced exactly. Elsewhere the means must agree within four standard
# errors of their difference.
set -euo pipefail
cd "$(dirname "$0")/.."
name="${1:?which row? See results/leaderboard.json}"
shift
read -r dataset seeds < <(python3 -c '
import json, sys
rows = {row["name"]: row for row in json.load(open("results/leaderboard.json"))}
sys.exit(f"no row {sys.argv[1]!r}, allowed: {chr(44).join(rows)}") if sys.argv[1] not in rows else print(rows[sys.argv[1]]["dataset"], rows[sys.argv[1]]["seeds"])
' "$name")
found="$(mktemp)"
trap 'rm -f "$found"' EXIT
model="results/models/$name"
python3 -m nas train "$model/architecture.json" --recipe "$model/recipe.json" \
    --dataset "$dataset" --test --seeds "$seeds" --json "$@" >"$found"
python3 scripts/leaderboard.py compare "$name" "$found"
