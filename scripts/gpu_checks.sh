#!/usr/bin/env bash
# Checks on a GPU machine, the most important first, each with its own time limit. Results are written to a folder.
#
#   scripts/gpu_checks.sh FOLDER E2E_FOLDER          on a GPU; E2E_FOLDER holds E2E's devset.csv and testset_w_refs.csv
#   TINY=1 scripts/gpu_checks.sh FOLDER E2E_FOLDER   the same at tiny size on a CPU
#
# The same command resumes unfinished stages. STAGES="quality" runs one of: tests quality speed streams lossless.
# PYTHON names the interpreter, by default python3.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:?the folder for the results}")
e2e=$(realpath "${2:?the folder of E2E\'s files}")
python=${PYTHON:-python3}
export OMP_NUM_THREADS=1 SKIPLAB_CACHE=${SKIPLAB_CACHE:-$folder/cache}
mkdir -p "$folder"

# stage NAME SECONDS COMMAND...: run a command unless it has succeeded before.
stage() {
  local name=$1 seconds=$2
  shift 2
  [[ -e $folder/$name.done ]] && { echo "$name: already finished"; return; }
  local began=$SECONDS
  timeout --signal=INT --kill-after=20 "$seconds" "$@" >>"$folder/$name.log" 2>&1
  local code=$?
  [[ $code == 0 ]] && touch "$folder/$name.done"
  echo "$name: exit code $code after $((SECONDS - began)) s, $folder/$name.log"
}

run() { # run NAME SECONDS OVERRIDES...: an experiment with its run folder under FOLDER
  local name=$1 seconds=$2
  shift 2
  stage "$name" "$seconds" "$python" -m skiplab.run "$@" tracking=none hydra.run.dir="$folder/$name"
}

tests() {
  # pytest-benchmark, where it is installed, warns beside xdist, and warnings are errors.
  local options=(-q -p no:cacheprovider -p no:benchmark --dist load)
  if [[ -n ${TINY:-} ]]; then
    stage tests 300 "$python" -m pytest "${options[@]}" -n 1 tests/engine/test_batch.py
  else
    stage tests 180 "$python" -m pytest "${options[@]}" -n 5 -k "cuda or gpu or triton or fused or memory" \
      tests/engine tests/kernels tests/test_conformance.py tests/utils tests/benchmarking/test_step_profile.py
  fi
}

quality() {
  # The machine keeps no weights afterwards, so checkpoints would only cost time.
  local options=(experiment=pretrained_e2e "data.dir=$e2e" 'seeds=[0]' 'benchmark.batch_sizes=[]' checkpoint_every=100000)
  if [[ -n ${TINY:-} ]]; then
    options+=(backbone=llama_tiny limit=8 workers=2 base.max_epochs=1 trainer.max_epochs=1 'speedups=[2]'
      'methods.constant.sweep.speedup=[2]' base.learning_rate=1e-3 'methods.calm.sweep.confidence=[state]'
      methods.calm.exits.drawn=2 methods.multi_layer.drawn_exits=2)
  else
    options+=(trainer=gpu workers=8)
  fi
  run quality "${QUALITY_SECONDS:-420}" "${options[@]}"
  # Report the finished settings, even if time ran out before all were.
  [[ -d $folder/quality/settings ]] &&
    "$python" -m skiplab.run experiment=report run="$folder/quality" hydra.run.dir="$folder/report" 2>&1 | tail -n 40
}

speed() {
  if [[ -n ${TINY:-} ]]; then
    run speed 300 experiment=throughput backbone.num_layers=4 backbone.hidden_size=16 backbone.num_heads=2 \
      backbone.vocab_size=104 throughput.prompt_tokens=6 throughput.new_tokens=5 'throughput.batch_sizes=[1,3]' \
      'throughput.dtypes=[float32]' 'throughput.held_out_batches=[3]' 'throughput.held_out_speedups=[]' 'speedups=[2]' \
      'throughput.peers=[]' 'methods.calm.sweep.batch_policy=[freeze]' benchmark.rounds=2 benchmark.warmup=0
  else
    local options=(experiment=opt_speed trainer=gpu 'speedups=[3]' 'methods.calm.sweep.speedup=[3]' benchmark.rounds=5
      'throughput.batch_sizes=[1,16,64]' 'throughput.held_out_batches=[]' 'throughput.held_out_speedups=[]')
    run speed_1_3b 150 "${options[@]}"
    run speed_6_7b 200 "${options[@]}" backbone=opt_6_7b backbone.pretrained=false
  fi
}

streams() {
  local options=(experiment=streams 'streams.patterns=[poisson]' 'streams.static=[skipdecode]' 'speedups=[3]')
  if [[ -n ${TINY:-} ]]; then
    run streams 300 "${options[@]}" backbone.hidden_size=16 backbone.num_heads=2 limit=60 benchmark.rounds=2 \
      streams.requests=8 'streams.loads=[0.5]' streams.slots=3
  else
    run streams 120 "${options[@]}" backbone=opt_1_3b backbone.pretrained=false trainer=gpu streams.vocabulary=50272 \
      streams.dtype=bfloat16 'streams.loads=[0.6,0.9]' benchmark.rounds=3
  fi
}

lossless() {
  # Drafters that need no training, on pretrained weights.
  local options=(experiment=search_draft 'seeds=[0]' methods.speculative.training=none)
  if [[ -n ${TINY:-} ]]; then
    run lossless 300 "${options[@]}" backbone.hidden_size=16 backbone.num_heads=2 limit=60 base.max_epochs=1 \
      benchmark.rounds=2 benchmark.prompts=2 drafts.trials=8
  else
    run lossless 180 "${options[@]}" backbone=smollm2_135m data=e2e "data.dir=$e2e" trainer=gpu decode_dtype=bfloat16 \
      'drafts.depth=[12,29]' drafts.trials=24 benchmark.rounds=3
  fi
}

for name in ${STAGES:-tests quality speed streams lossless}; do
  "$name"
done
