#!/usr/bin/env bash
# Everything that a GPU can be asked, in one call of less than ten minutes: the tests that need one, then a
# training step in every mode and precision, at batches of 128 and 512, and whole epochs of MNIST.
#
#     CAPSNET_DATA=FOLDER bash bench/gpu.sh | tee gpu.txt
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python3}

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

part 150 "$python" -m pytest -q -p no:cacheprovider --numprocesses=0 tests/capsnet/test_cuda.py tests/capsnet/test_float32.py
modes=(--mode eager compiled graph compiled-graph)
part 90 "$python" bench/step.py capsnet ordinary --precision float32 bfloat16 "${modes[@]}" --rounds 7
part 60 "$python" bench/step.py capsnet --precision tf32 "${modes[@]}" --rounds 7
for precision in tf32 bfloat16; do
  part 45 "$python" bench/step.py capsnet --precision $precision --mode graph compiled-graph --rounds 7 --set batch_size=512
done
part 60 "$python" bench/roofline.py --precision float32 bfloat16 --rounds 7 --output "${OUT:-.}/roofline-gpu.png"
part 40 "$python" bench/kernels.py --precision bfloat16 --mode graph --output "${OUT:-.}/kernels-gpu.png"
if [[ -n ${CAPSNET_DATA:-} ]]; then
  for precision in tf32 bfloat16; do
    for size in 128 512; do
      part 60 "$python" bench/epoch.py experiments/mnist_3iter.yaml --epochs 6 --set precision=$precision \
        --set cuda_graph=true --set compile=true --set batch_size=$size
    done
  done
fi
exit $failed
