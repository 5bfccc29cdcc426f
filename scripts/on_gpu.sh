#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the tests of the CUDA engine, its speed, its parity with the reference.
#
#     NAS_DATA=FOLDER_WITH_MNIST bash scripts/on_gpu.sh [OUTPUT_FOLDER]
#
# About a quarter of an hour. Needs the package's dependencies, or their wheels in ./wheels where there is no network.
# Each part leaves its text in the output folder; a part that fails does not keep the next from running.
set -uo pipefail
cd "$(dirname "$0")/.."
out="${1:-results/gpu}"
mkdir -p "$out"
if [ -d wheels ]; then
    python3 -m pip install --quiet --no-index --find-links wheels llvmlite scikit-learn pytest || exit 1
fi
export PYTHONPATH="$PWD" OMP_NUM_THREADS=4
status=0
part() {
    local name="$1"
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$out/$name.txt"
    [ "${PIPESTATUS[0]}" = 0 ] || { echo "$name failed"; status=1; }
}
part machine python3 -c "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())"
part tests python3 -m pytest -q -p no:cacheprovider tests/test_cuda.py
part bench python3 scripts/bench/training.py --device cuda --data-root "$NAS_DATA"
part parity python3 scripts/bench/parity.py --device cuda --seeds 10 --data-root "$NAS_DATA" --output "$out/parity.jsonl"
exit "$status"
