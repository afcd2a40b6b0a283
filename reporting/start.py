"""Open a run: a new one with published weights, or a saved one at the point where it stopped."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn

from models.auto import TransformersEncoder, new_encoder
from models.bert import BertModel
from models.bert_config import BertConfig
from models.pretrained import OTHER_NAME, find_checkpoint, load_config, load_encoder, load_tokenizer
from models.weight_file import check_size
from options.parsing import make_absolute
from options.resolving import resolve_options
from reporting.run_directory import (
    find_last,
    keep_options,
    lock_resumed,
    make_run_dir,
    name_run_dir,
    resumed_options,
    run_lock,
)
from runtime import checkpoint, workers
from runtime.errors import InputError
from runtime.locks import is_same_file


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
        anchor: the descriptor of a file in the run's directory, once that is there; None in all
            workers but 0.
    """

    args: Namespace
    config: BertConfig
    tokenizer: Tokenizer
    source: Path
    last: Path | None
    locks: ExitStack
    anchor: int | None

    def build_encoder(self) -> BertModel | TransformersEncoder:
        """Return the encoder with published weights, or one for the weights in `last`."""
        if self.last is not None:
            return saved_encoder(self.args, self.config, self.source / "config.json", self.last)
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
            self.anchor = self.locks.enter_context(run_lock(self.args.run_dir))
        workers.barrier()  # all workers read and write in it

    def check_place(self) -> None:
        """Raise InputError if the run's directory has been moved or removed while we work."""
        path = Path(self.args.run_dir) / "config.json"
        if self.anchor is not None and not is_same_file(path, self.anchor):
            raise InputError(
                f"{self.args.run_dir}: moved or removed while the run was at work, so the run "
                "stops; if it was moved, resume it from its new place"
            )


def saved_encoder(
    args: Namespace, config: BertConfig, config_path: Path, checkpoint: Path
) -> BertModel | TransformersEncoder:
    """Return an encoder whose weights a run's checkpoint replaces.

    Under --lora_rank it replaces those that are trained. The others are the published ones, which
    the run reads again.

    Args:
        args: the run's options.
        config: the run's own.
        config_path: where it comes from, for an error message.
        checkpoint: best.pt or last.pt.

    Raises:
        InputError: the config and the checkpoint do not fit, or the published weights are gone.
    """
    if args.lora_rank is None:
        check_size(config, config_path, [checkpoint])
        return new_encoder(config)
    try:
        with workers.main_first():  # it may download the encoder
            source = find_checkpoint(args.model_name, args.local_files_only)
        return load_encoder(source, config)
    except InputError as error:
        reason = str(error).removesuffix(f"; {OTHER_NAME}")
        raise InputError(
            f"{checkpoint}: holds what --lora_rank trained, and the rest of the encoder cannot be "
            f"read: {reason}; put it back there"
        ) from None


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
        anchor, last = None, None
        if args.resume is not None:
            anchor = locks.enter_context(run_lock(args.resume))
            args = resumed_options(args)
            lock_resumed(args, locks)
            # Worker 0's view of the disk counts: another machine's may be behind.
            last = workers.broadcast(find_last(args) if workers.is_main() else None)
        else:
            make_absolute(args)
            if args.checkpoint is not None:  # a mistake in it shows before the data is read
                checkpoint.check_file(Path(args.checkpoint))
            name_run_dir(args, locks)
        checkpoint.seed_everything(args.seed)
        with workers.main_first():  # it may download the checkpoint
            source = (
                Path(args.run_dir)
                if last is not None
                else find_checkpoint(args.model_name, args.local_files_only)
            )
        config = load_config(source)
        config.hidden_dropout_prob = args.hidden_dropout_prob
        config.attention_probs_dropout_prob = args.hidden_dropout_prob
        tokenizer = load_tokenizer(source, config)
        resolve_options(args, config)
        yield Start(args, config, tokenizer, source, last, locks, anchor)
