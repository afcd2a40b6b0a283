#!/usr/bin/env bash
# Prepare the GWDG cluster on a login node (compute nodes may have no network): conda environment,
# weights, data.
#   bash setup_gwdg.sh                                  # weights of bert-base-uncased
#   bash setup_gwdg.sh bert-large-uncased roberta-base  # of these too
# Never run on the cluster: only checked with shellcheck and against stubs of conda and module.
# The names of modules may differ there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

if type module &>/dev/null; then
    set +u # module functions read variables that may be unset
    module load miniforge3 || module load anaconda3 || true # conda may be on PATH already
    set -u
fi
if ! type conda &>/dev/null; then
    echo "setup_gwdg.sh: no conda here; load a module that brings it (module avail conda) and run again" >&2
    exit 1
fi

action=create
if [[ $(conda env list) == *$'\nmultitask-bert '* ]]; then
    action=update
fi
conda env "$action" --name multitask-bert --file environment.yml
# The interpreter itself, as conda run passes neither standard input nor line breaks on.
python=$(conda run --name multitask-bert python -c 'import sys; print(sys.executable)')

"$python" - bert-base-uncased "$@" <<'EOF'
import sys

from huggingface_hub import snapshot_download

needed = ["config.json", "model.safetensors", "tokenizer*", "vocab.*", "merges.txt"]
for name in sys.argv[1:]:
    print(name, "->", snapshot_download(name, allow_patterns=needed))
EOF
"$python" data/download.py

echo "Ready. To train:"
echo "  source activate multitask-bert"
echo "  sbatch run_train.sh --model_name bert-base --local_files_only"
