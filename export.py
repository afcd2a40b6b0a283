"""Write a finished run as a directory that transformers or sentence-transformers loads.

    python export.py --run runs/first --to exported --format transformers
    python export.py --run runs/first --to exported --format sentence-transformers
    python export.py --run runs/first --to exported --format cross-encoder --task sst
    python export.py --run runs/first --to exported --format transformers --push me/my-encoder

The directory holds weights, config, tokenizer and a model card, and appears as a whole or not at
all. A model that a format cannot hold is refused in one line.
"""

import runtime.startup  # noqa: F401  # first, for a Ctrl-C during the other imports

# isort: split
import sys

from options.export_options import get_args_parser, parse_args
from runtime.errors import exit_status, read_command_line

if __name__ == "__main__":  # before the slow imports: --help and a wrong flag are answered at once
    ARGS = read_command_line(lambda: parse_args(get_args_parser()))

# isort: split
import os
from argparse import Namespace
from pathlib import Path

from exporting import FORMATS, CrossEncoderExport, EncoderExport, SentenceTransformerExport
from exporting.card import model_card
from exporting.hub import check_repo_id, push
from predicting.run import Run, load_run
from runtime.errors import InputError
from runtime.files import atomic_write
from runtime.interrupts import StopAtOnce, caught_signals
from runtime.new_folder import check_free, new_directory


def main(args: Namespace) -> None:
    """Load the run, check that the format can hold it, write the directory, and upload it.

    Raises:
        InputError: the run cannot be read or exported, the target is not free, or the upload fails.
        OSError: the directory cannot be written.
    """
    target = Path(os.path.abspath(args.to))
    check_free(target)  # before the run is loaded, as the name of the repository
    if args.push is not None:
        check_repo_id(args.push)
    run = load_run(args.run, filepath=args.filepath, is_calibrated=False)
    exports = build_exports(args, run)
    for export in exports.values():
        export.check()
    stop = StopAtOnce("nothing was written")
    with new_directory(target) as folder, caught_signals(stop):
        for place, export in exports.items():
            (folder / place).mkdir(exist_ok=True)
            export.write(folder / place)
            name = args.push or (target / place).name
            with atomic_write(folder / place / "README.md") as file:
                file.write(model_card(export, name))
    for place in exports:
        print(f"written to {target / place}")
    if args.push is not None:
        print(f"uploaded to {push(target, args.push)}")


def build_exports(args: Namespace, source: Run) -> dict[str, EncoderExport]:
    """Return what to write, by its place in the target: one export, or one for each head.

    Raises:
        InputError: the run lacks the task, or there are several heads for one repository.
    """
    if args.format == SentenceTransformerExport.name:
        return {"": SentenceTransformerExport(source, is_normalized=args.normalize)}
    if args.format != CrossEncoderExport.name:
        return {"": FORMATS[args.format](source)}
    names = None if args.task is None else [args.task]
    tasks = source.chosen(names)
    if len(tasks) == 1:
        return {"": CrossEncoderExport(source, task) for task in tasks.values()}
    if args.push is not None:
        raise InputError(
            f"--push {args.push}: a repository holds one model, and the run has the heads "
            f"{', '.join(tasks)}; name one with --task"
        )
    return {name: CrossEncoderExport(source, task) for name, task in tasks.items()}


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(ARGS)))
