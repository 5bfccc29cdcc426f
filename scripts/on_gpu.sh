#!/usr/bin/env bash
# Runs everything that needs a GPU, in parts of at most eight minutes: tests of the CUDA engine, its speed, and its
# parity with the reference trainer.
#
#     bash scripts/on_gpu.sh PART [OUTPUT_FOLDER]     # one part
#     bash scripts/on_gpu.sh                          # all parts without a result in results/gpu
#
# NAS_DATA names a folder with MNIST, gzipped or not; the default is shared/data. The package's dependencies must be
# installed; benchmarks and parity do not need Optuna. Wheels in ./wheels are installed first: on a machine without
# network access put llvmlite and scikit-learn there, for the tests also pytest and hypothesis. Each part writes its
# output to PART.txt in the output folder and appends each measurement to PART.jsonl. A part that has succeeded is not
# run again. A part that failed or was interrupted leaves PART.log instead of PART.txt and resumes after its last
# measurement. Results of several calls are merged by
#
#     cat FOLDER/bench-*.jsonl >all.jsonl; python scripts/bench/training.py --device cuda --pairs 0 --output all.jsonl
#     cat FOLDER/parity-*.jsonl >all.jsonl; python scripts/bench/parity.py --seeds 0 --output all.jsonl
set -uo pipefail
here="$PWD"
cd "$(dirname "$0")/.."

# tests/scripts/test_smoke.py sets smaller values, to test the script without a GPU.
device="${NAS_GPU_DEVICE:-cuda}" dataset="${NAS_GPU_DATASET:-mnist}" epochs="${NAS_GPU_EPOCHS:-15}"
read -ra networks <<<"${NAS_GPU_NETWORKS:-mnist-7825}"
read -ra of_parity <<<"${NAS_GPU_PARITY_NETWORKS:-mnist-7825 mnist-6136}"
read -ra tests <<<"${NAS_GPU_TESTS:-tests/training/cuda}"
read -ra short <<<"${NAS_GPU_SHORT:+--short}"
seeds="${NAS_GPU_SEEDS:-2}" limit="${NAS_GPU_LIMIT:-480}" python="${PYTHON:-python3}"

parts=(machine tests bench-alone bench-packed bench-usual parity-1 parity-2 parity-3 parity-4 parity-5)
if [ -n "${1:-}" ]; then
    [[ " ${parts[*]} " == *" $1 "* ]] || { echo "no part $1, allowed: ${parts[*]}" >&2; exit 2; }
    parts=("$1")
fi
out="${2:-results/gpu}"
[ -z "${2:-}" ] || [ "${out:0:1}" = / ] || out="$here/$out"
mkdir -p "$out" || exit 1

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
if compgen -G "wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl || exit 1
fi
data="${NAS_DATA:-shared/data}"
if [ "$dataset" = mnist ] && [ ! -e "$data/MNIST/raw/train-images-idx3-ubyte" ]; then
    copy="$(mktemp -d)"
    trap 'rm -rf "$copy"' EXIT
    mkdir -p "$copy/MNIST/raw"
    for file in "$data"/MNIST/raw/*.gz; do
        gzip -dc "$file" >"$copy/MNIST/raw/$(basename "$file" .gz)" ||
            { echo "$data/MNIST/raw: no MNIST that can be unpacked; NAS_DATA names another folder" >&2; exit 1; }
    done
    data="$copy"
fi

run() {
    local name="$1"
    case "$name" in
        machine)
            "$python" -c "import sys, torch
from nas.training.device import describe, pick_device
print('Python', sys.version.split()[0], 'torch', torch.__version__, 'CUDA', torch.version.cuda)
print(describe(pick_device('$device')))" ;;
        tests)
            # Replaces the project's addopts, which need pytest-xdist and deselect tests marked gpu.
            "$python" -m pytest -q -p no:cacheprovider -o addopts=--import-mode=importlib "${tests[@]}" ;;
        bench-*)
            "$python" scripts/bench/training.py --device "$device" --dataset "$dataset" --data-root "$data" --pairs 1 \
                "${short[@]}" --networks "${networks[@]}" --ways "${name#bench-}" --output "$out/$name.jsonl" ;;
        parity-*)
            "$python" scripts/bench/parity.py --device "$device" --dataset "$dataset" --data-root "$data" \
                --epochs "$epochs" --networks "${of_parity[@]}" --seeds "$seeds" \
                --first-seed "$(((${name#parity-} - 1) * seeds))" --output "$out/$name.jsonl" ;;
    esac
}
export -f run
# `timeout` cannot call a shell function, so a new bash process gets these settings and calls `run`.
settings="$(declare -p device dataset epochs networks of_parity tests short seeds python out data)"

status=0
for part in "${parts[@]}"; do
    if [ -e "$out/$part.txt" ]; then
        echo "== $part has ended already: $out/$part.txt"
        continue
    fi
    echo "== $part"
    timeout "$limit" bash -c "$settings; run $part" 2>&1 | tee "$out/$part.log"
    ended="${PIPESTATUS[0]}"
    if [ "$ended" = 0 ]; then
        mv "$out/$part.log" "$out/$part.txt"
    else
        echo "$part did not end well: exit status $ended$([ "$ended" = 124 ] && echo ", after $limit s")"
        status=1
    fi
done
exit "$status"
