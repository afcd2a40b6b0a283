#!/usr/bin/env bash
# Prepare the GWDG cluster: make the conda environment and download weights and data. Run it on a
# login node, as compute nodes may have no network.
#   bash setup_gwdg.sh                                  # the weights of bert-base-uncased
#   bash setup_gwdg.sh bert-large-uncased roberta-base  # and of these
# This script has never run on the cluster. It was checked with shellcheck and with stubs of conda
# and module; the names of the modules may differ there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

if type module &>/dev/null; then
    set +u # module reads variables that may be unset
    module load miniforge3 || module load anaconda3 || true # conda may be on PATH already
    set -u
fi
if ! type conda &>/dev/null; then
    echo "setup_gwdg.sh: conda was not found; load a module that has it (see: module avail conda)" \
        "and run this again" >&2
    exit 1
fi

action=create
if [[ $(conda env list) == *$'\nmultitask-bert '* ]]; then
    action=update
fi
conda env "$action" --name multitask-bert --file environment.yml
# Call the interpreter itself: conda run passes on neither standard input nor line breaks.
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
echo "  source activate multitask-bert  # in a new shell first: module load miniforge3, or what has conda"
echo "  sbatch run_train.sh --model_name bert-base --local_files_only"
