"""From options to a run that is ready for its next update, a new one or one that goes on."""

from argparse import Namespace
from pathlib import Path

import checkpoint
import workers
from batches import Rows
from datasets import SPLITS, load_data
from evaluation import select_device
from models import build_model
from models.bert import BertModel
from models.pretrained import find_checkpoint, load_config, load_encoder, load_tokenizer
from options import resolve_options
from prefix_cache import with_cache
from report import print_start
from run_directory import keep_options, make_run_dir, resumed_options
from training import Training, build_training


def prepare(args: Namespace) -> tuple[Namespace, Training, dict[str, dict[str, Rows]]]:
    """Read the data, build or reload the model and its training, make the run's directory.

    Returns the options as resolved, the training, and split -> task name -> rows.
    """
    if args.resume is not None:
        args = resumed_options(args)
    device = select_device(args.use_gpu)
    checkpoint.seed_everything(args.seed)
    last = Path(args.filepath) / "last.pt" if args.resume else None
    # Worker 0's view of the disk counts: another machine's may be behind.
    is_saved = workers.broadcast(last is not None and last.is_file())
    # A saved run carries its own config and tokenizer, and needs its first weights no more.
    with workers.main_first():  # which may download it
        directory = (
            Path(args.run_dir)
            if is_saved
            else find_checkpoint(args.model_name, args.local_files_only)
        )
    config = load_config(directory)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = args.hidden_dropout_prob
    tokenizer = load_tokenizer(directory, config)
    resolve_options(args, config)

    splits = ("train", "dev") if args.no_test_predictions else tuple(SPLITS)
    data = load_data(args, tokenizer, config.pad_token_id, splits)
    encoder = BertModel(config) if is_saved else load_encoder(directory, config)
    model = build_model(args, encoder).to(device)
    if args.checkpoint is not None and not is_saved:
        checkpoint.load_weights(args.checkpoint, model)
    data = with_cache(args, model, data)
    training = build_training(args, model, data["train"])
    workers.seed_dropout(args.seed)
    if is_saved:
        training.load_state_dict(checkpoint.load(last))
    workers.check_replicas(model)
    if args.resume is None:
        make_run_dir(args, config, tokenizer)
    else:
        keep_options(args)
    workers.barrier()  # what is cached lies in the run's directory
    print_start(args, training)
    return args, training, data
