#!/usr/bin/env bash
# The long recipe on a GPU, as one table: minutes to 90, 95 and 98%, images/s, share of the compute-only rate.
#
#     bash benchmarks/gpu.sh DATA [EPOCHS] [RESULT]
#
# DATA is a folder with train/ and test/, or a .zip or .tar of one (so that it can be sent along with the project).
# Without a GPU it runs as well, slower. Result: benchmarks/gpu.md, or the file named.
set -euo pipefail
data=$(realpath "$1")
cd "$(dirname "$0")/.."
epochs=${2:-40} result=${3:-benchmarks/gpu.md}
python=$(command -v "${PYTHON:-python3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $data in
    *.zip) "$python" -m zipfile -e "$data" "$work/dataset" ;;
    *.tar) mkdir "$work/dataset" && tar -xf "$data" -C "$work/dataset" ;;
    *) ln -s "$data" "$work/dataset" ;;
esac
project=$PWD
export PYTHONPATH=$project
cd "$work"
"$python" "$project/train.py" --recipe long --epochs "$epochs" --name gpu
"$python" "$project/evaluate.py" module/gpu.pth
size=$("$python" -c "from classifier.settings import Settings; print(Settings().size)")
batch=$("$python" -c "from classifier.settings import Settings; print(Settings().batch_size)")
"$python" -m benchmarks.compute_only --size "$size" --batch-size "$batch" --seconds 10 > compute.json
cd "$project"
"$python" -m benchmarks.gpu_table "$work" > "$result"
cat "$result"
