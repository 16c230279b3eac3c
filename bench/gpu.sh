#!/usr/bin/env bash
# Everything that a GPU can be asked, in calls of less than ten minutes each.
#
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh | tee gpu.txt
#         the tests that need a GPU; a training step in every mode and precision, what bounds it and where its
#         time goes, at batches of 128 and 512; whole epochs of MNIST
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh accuracy | tee accuracy.txt
#         MNIST after 20 epochs with three seeds: bfloat16 and TensorFloat-32 against float32
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh results | tee results.txt
#         what the paper's network reaches in 150 epochs with three seeds, and the authors' preset likewise
#
# PYTHON names the Python; pictures and metric histories go to OUT, by default this folder's parent.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}
out=${OUT:-.}
fast=(--set cuda_graph=true --set compile=true)

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null \
  || { echo "$python has no PyTorch that sees a GPU: name another by PYTHON=" >&2; exit 2; }
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader
failed=0
part() {
  local limit=$1
  shift
  printf '\n== %s\n' "$*"
  timeout "$limit" "$@" || { failed=1; echo "failed: exit $?"; }
}
step() { part "$1" "$python" bench/step.py "${@:2}" --rounds 7; }

measure() {
  local modes=(--mode eager compiled graph compiled-graph)
  part 120 "$python" -m pytest -q -p no:cacheprovider --numprocesses=0 tests/capsnet/test_cuda.py tests/capsnet/test_float32.py
  step 80 capsnet ordinary --precision float32 bfloat16 "${modes[@]}"
  step 50 capsnet --precision tf32 "${modes[@]}"
  step 40 capsnet --precision float32 bfloat16 --mode eager compiled --set deterministic=true
  for precision in tf32 bfloat16; do
    step 30 capsnet --precision $precision --mode graph compiled-graph --set batch_size=512
  done
  part 50 "$python" bench/roofline.py --precision float32 bfloat16 --rounds 7 --output "$out/roofline-gpu.png"
  part 30 "$python" bench/kernels.py --precision bfloat16 --mode compiled-graph --output "$out/kernels-gpu.png"
  for precision in tf32 bfloat16; do
    for size in 128 512; do
      part 40 "$python" bench/epoch.py experiments/mnist_3iter.yaml --epochs 6 --set precision=$precision \
        --set batch_size=$size "${fast[@]}"
    done
  done
}

accuracy() {
  part 590 "$python" bench/accuracy.py experiments/mnist_3iter.yaml --set num_epochs=20 "${fast[@]}" \
    --set 'optim.milestone=[10, 14, 17, 19]' \
    --vary precision=float32 --vary precision=tf32 --vary precision=bfloat16 --output "$out/accuracy"
}

results() {
  local each=(experiments/mnist_3iter.yaml --set num_epochs=150 --set precision=bfloat16 "${fast[@]}")
  part 290 "$python" bench/accuracy.py "${each[@]}" --set 'optim.milestone=[75, 105, 126, 141]' \
    --output "$out/mnist_3iter"
  # The decay of the authors' 300,000 steps in 150 epochs of 469: 0.96 every 469 steps for every 2,000.
  part 290 "$python" bench/accuracy.py "${each[@]}" --set preset=authors \
    --set 'optim={schedule: exponential, decay: 0.96, per: step, every: 469, floor: 1.0e-6}' \
    --output "$out/mnist_authors"
}

case ${1:-measure} in
  measure | accuracy | results) "${1:-measure}" ;;
  *) echo "${1}: must be accuracy, results or nothing" >&2; exit 2 ;;
esac
exit $failed
