"""Open a run: a new one with published weights, or a saved one at the point where it stopped."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from models.bert import BertConfig, BertModel
from models.pretrained import find_checkpoint, load_config, load_encoder, load_tokenizer
from options.parsing import resolve_options
from reporting.run_directory import (
    keep_options,
    make_run_dir,
    name_run_dir,
    resumed_options,
    run_lock,
)
from runtime import checkpoint, workers


@dataclass
class Start:
    """A run that is open for this process alone.

    Attributes:
        args: the options, every default resolved.
        config: the encoder's shape.
        tokenizer: the encoder's tokenizer.
        source: the directory that these come from: a published checkpoint, or the run's own.
        last: the checkpoint to resume from; None for a run that starts from published weights.
        locks: what is released when the run ends.
    """

    args: Namespace
    config: BertConfig
    tokenizer: Tokenizer
    source: Path
    last: Path | None
    locks: ExitStack

    def build_encoder(self) -> BertModel:
        """Return the encoder with published weights, or with fresh ones that `last` replaces."""
        if self.last is not None:
            return BertModel(self.config)
        return load_encoder(self.source, self.config)

    def write_directory(self, model: nn.Module) -> None:
        """Make the run's directory, or write what --resume changed into it.

        Raises:
            WorkerLost: the workers' models differ.
        """
        workers.exchange().check_replicas(model)
        if self.args.resume is not None:
            keep_options(self.args)
        else:
            make_run_dir(self.args, self.config, self.tokenizer)
            self.locks.enter_context(run_lock(self.args.run_dir))
        workers.barrier()  # all workers read and write in it


@contextmanager
def open_run(args: Namespace) -> Iterator[Start]:
    """Resolve a run's options, seed it, and keep other processes off it inside the block.

    A resumed run takes its options from its directory, and its config and tokenizer too once it
    has a checkpoint.

    Args:
        args: checked options of the command line; a new run's are resolved in place.

    Raises:
        InputError: the run or the encoder cannot be read, or options do not fit them.
    """
    with ExitStack() as locks:
        if args.resume is not None:
            locks.enter_context(run_lock(args.resume))
            args = resumed_options(args)
        checkpoint.seed_everything(args.seed)
        last = Path(args.filepath) / "last.pt" if args.resume is not None else None
        # Worker 0's view of the disk counts: another machine's may be behind.
        is_saved = workers.broadcast(last is not None and last.is_file())
        with workers.main_first():  # it may download the checkpoint
            source = (
                Path(args.run_dir)
                if is_saved
                else find_checkpoint(args.model_name, args.local_files_only)
            )
        config = load_config(source)
        config.hidden_dropout_prob = args.hidden_dropout_prob
        config.attention_probs_dropout_prob = args.hidden_dropout_prob
        tokenizer = load_tokenizer(source, config)
        resolve_options(args, config)
        if args.resume is None:
            name_run_dir(args)
        yield Start(args, config, tokenizer, source, last if is_saved else None, locks)
