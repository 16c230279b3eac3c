#!/usr/bin/env bash
# Everything that a GPU can be asked, in three calls of less than ten minutes each.
#
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh | tee gpu.txt
#         the tests that need a GPU; a training step in every mode and precision, what bounds it and where its
#         time goes, at batches of 128 and 512; whole epochs of MNIST
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh accuracy | tee accuracy.txt
#         MNIST after 20 epochs with three seeds: bfloat16 and TensorFloat-32 against float32
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh results | tee results.txt
#         what the paper's network reaches in 150 epochs with three seeds, and the authors' preset likewise
#
# PYTHON names the Python; pictures and metric histories go to OUT, by default this folder's parent. What matters
# most comes first; a part that fails is said to and the others follow; after LIMIT seconds, 570 by default, no
# part begins and none goes on. Where PyTorch cannot compile (it needs a C compiler on a GPU, too), that is said
# and everything is measured without.
#
# It needs PyTorch with torchvision, NumPy, pydantic, PyYAML, TensorBoard, matplotlib and Pillow, and for the
# tests pytest, pytest-xdist, pytest-timeout and hypothesis; no Ray, no MLflow. On a machine without a network:
# - MNIST: copy its four files, gzipped or not (12 or 55 MB), to FOLDER/MNIST/raw.
# - What Python lacks there: on a machine with a network, here for Python 3.12 without pydantic,
#       python -m pip download --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 \
#           --dest wheels pydantic
#   and there, after copying the folder,
#       python3 -m pip install --no-index --no-deps --target site wheels/*.whl; export PYTHONPATH=$PWD/site
#
# TRIAL=1 LIMIT=3600 runs all of it on a CPU, in sizes that say nothing but that it works.
set -uo pipefail
exec 2>&1
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
out=${OUT:-.}
ends=$((SECONDS + ${LIMIT:-570}))
troubles=()

if [ -z "${TRIAL:-}" ]; then
  device=cuda run=experiments/mnist_3iter.yaml tf32=tf32 large=512 graph=graph compiled_graph=compiled-graph
  rounds=(--rounds 7) side=() sizes=() fast=(--set cuda_graph=true) epochs=(--epochs 6) short=20 long=150 slack=1
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null \
    || { echo "$python has no PyTorch that sees a GPU: name another by PYTHON="; exit 2; }
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader
else
  device=cpu run=experiments/quickstart.yaml tf32=float32 large=4 graph=eager compiled_graph=compiled
  sizes=(--set use_cuda=false --set threads=1 --set model.conv_channels=4 --set model.primary_types=2)
  rounds=(--rounds 2) side=(--side 64) fast=() epochs=(--epochs 2) short=1 long=1 slack=10
fi

# part SECONDS COMMAND...: run it for so long at most, and no longer than there is time.
part() {
  local left=$((ends - SECONDS)) limit=$(($1 * slack)) code
  shift
  local command=${*//$'\n'/, }
  printf '\n== %s\n' "$command"
  if [ "$left" -lt 15 ]; then
    echo "left out: no time"
    troubles+=("left out: $command")
    return
  fi
  timeout --kill-after=5 "$((limit < left ? limit : left))" "$@"
  code=$?
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then
    echo "failed: stopped after $((SECONDS - ends + left)) s"
    troubles+=("stopped: $command")
  elif [ "$code" != 0 ]; then
    echo "failed: exit $code"
    troubles+=("exit $code: $command")
  fi
  echo "($((SECONDS - ends + left)) s)"
}
step() { part "$1" "$python" bench/step.py capsnet "${@:2}" "${rounds[@]}" "${side[@]}" "${sizes[@]}"; }
epoch() {
  part 80 "$python" bench/epoch.py "$run" "${epochs[@]}" --set "precision=$1" --set "batch_size=$2" "${fast[@]}" \
    "${sizes[@]}"
}
# test_errors SHARE NAME KEYS...: a folder of histories, within 1/SHARE of the time that is left
test_errors() {
  local left=$(((ends - SECONDS) / $1 - 20)) # to begin, and to sum up
  part "$((left + 20))" "$python" bench/accuracy.py "$run" --seconds "$((left > 1 ? left : 1))" --output "$out/$2" \
    "${@:3}" "${fast[@]}" "${sizes[@]}"
}

# Sets `compiles`, empty where that cannot be, and `best`, the fastest mode that there is.
try_to_compile() {
  local said limit=$((ends - SECONDS < 120 ? ends - SECONDS : 120))
  printf '\n== can PyTorch compile?\n'
  if said=$(timeout "$((limit > 1 ? limit : 1))" "$python" -W ignore -c "import torch
torch.compile(lambda x: (x.sin() + 1).sum())(torch.ones(4096, device='$device'))" 2>&1); then
    compiles=yes best=$compiled_graph
    fast+=(--set compile=true)
    echo yes
  else
    compiles='' best=$graph
    echo "no, and nothing is compiled in what follows: $(grep -m1 -E 'Error|Failed' <<<"$said" || tail -n1 <<<"$said")"
    troubles+=("PyTorch cannot compile")
  fi
}
# compiled COMMAND...: run it where there is something to compile with
compiled() { if [ -n "$compiles" ]; then "$@"; fi; }

measure() {
  try_to_compile
  # Neither the plugins that happen to be there nor what their and other packages warn of are tested.
  part 200 env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$python" -m pytest -q -p xdist -p timeout -p no:cacheprovider \
    --numprocesses=0 -o $'filterwarnings=default\nerror::UserWarning:capsnet' \
    tests/capsnet/test_cuda.py tests/capsnet/test_float32.py
  compiled part 60 "$python" bench/routing.py "${rounds[@]}" "${sizes[@]}"
  step 90 ordinary --precision float32 bfloat16 --mode eager "$graph"
  compiled step 110 --precision bfloat16 --mode compiled "$compiled_graph"
  epoch bfloat16 128
  part 60 "$python" bench/kernels.py --precision bfloat16 --mode "$best" "${sizes[@]}" \
    --output "$out/kernels-gpu.png"
  step 60 --precision "$tf32" --mode eager "$graph"
  epoch bfloat16 "$large"
  part 60 "$python" bench/roofline.py --precision float32 bfloat16 "${rounds[@]}" "${side[@]}" "${sizes[@]}" \
    --output "$out/roofline-gpu.png"
  compiled step 80 --precision "$tf32" --mode "$compiled_graph"
  step 60 --precision float32 bfloat16 --mode eager --set deterministic=true
  step 60 --precision bfloat16 --mode "$graph" --set "batch_size=$large"
  epoch "$tf32" 128
  compiled step 80 --precision bfloat16 --mode "$compiled_graph" --set "batch_size=$large"
  compiled step 80 --precision float32 --mode compiled "$compiled_graph"
  step 60 --precision "$tf32" --mode "$graph" --set "batch_size=$large"
  epoch "$tf32" "$large"
}

accuracy() {
  try_to_compile
  test_errors 1 accuracy --set num_epochs=$short \
    --set 'optim={schedule: multistep, lr: 0.001, step_decay: 0.1, milestone: [10, 14, 17, 19]}' \
    --vary precision=float32 --vary "precision=$tf32" --vary precision=bfloat16
}

results() {
  try_to_compile
  test_errors 2 mnist_3iter --set num_epochs=$long --set precision=bfloat16 \
    --set 'optim={schedule: multistep, lr: 0.001, step_decay: 0.1, milestone: [75, 105, 126, 141]}'
  # The decay of the authors' 300,000 steps in 150 epochs of 469: 0.96 every 469 steps for every 2,000.
  test_errors 1 mnist_authors --set num_epochs=$long --set precision=bfloat16 --set preset=authors \
    --set 'optim={schedule: exponential, decay: 0.96, per: step, every: 469, floor: 1.0e-6}'
}

case ${1:-measure} in
  measure | accuracy | results)
    mkdir -p "$out" || exit 2
    "${1:-measure}"
    ;;
  *) echo "${1}: must be measure, accuracy, results or nothing"; exit 2 ;;
esac
if [ ${#troubles[@]} -gt 0 ]; then
  printf '\n== what did not work\n'
  printf '%s\n' "${troubles[@]}"
  exit 1
fi
