#!/usr/bin/env bash
# The long recipe on a GPU, as one table: minutes to 90, 95 and 98%, images/s, share of the compute-only rate.
#
#     bash benchmarks/gpu.sh DATA [RESULT [FLAGS OF train.py ...]]
#
# DATA is a folder with train/ and test/, or a .zip or .tar of one (so that it can be sent along with the project).
# Without a GPU it runs as well, slower. Result: benchmarks/gpu.md, or the file named. PYTHON=... names an interpreter.
set -euo pipefail
data=$(realpath -e "$1")
cd "$(dirname "$0")/.."
result=${2:-benchmarks/gpu.md}
python=$(command -v "${PYTHON:-python3}")
[[ $python = /* ]] || python=$PWD/$python
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
"$python" "$project/train.py" --recipe long --name gpu "${@:3}"
"$python" "$project/evaluate.py" module/gpu.pth
read -r size batch < <("$python" -c "
import torch
settings = torch.load('module/gpu.pth', weights_only=True)['settings']
print(settings['size'], settings['batch_size'])")
"$python" -m benchmarks.compute_only --size "$size" --batch-size "$batch" --seconds 10 > compute.json
cd "$project"
"$python" -m benchmarks.gpu_table "$work" > "$result"
cat "$result"
