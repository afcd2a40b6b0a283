"""Which packages the flags need beyond requirements.txt."""

from argparse import Namespace
from importlib.util import find_spec

from inputs.tags import find_model
from optimizers.aggregators import AGGREGATORS
from runtime.packages import missing_package


def check_packages(args: Namespace) -> None:
    """Look for the packages that a run's options need, before it reads data or writes anything.

    Nothing is imported here: a package that is broken is noticed where it is used.

    Raises:
        InputError: a package is not installed.
    """
    needed = [
        ("--hpo", args.hpo, ("ray", "optuna")),
        ("--hpo_resume", args.hpo_resume is not None, ("ray", "optuna")),
        ("--augment", args.augment > 0, ("nltk",)),
        ("--lora_rank", args.lora_rank is not None, ("peft",)),
    ]
    if args.projection in AGGREGATORS:
        packages = ("torchjd", *AGGREGATORS[args.projection].packages)
        needed.append((f"--projection {args.projection}", True, packages))
    for flag, is_given, packages in needed:
        for package in packages if is_given else ():
            if find_spec(package) is None:
                raise missing_package(flag, f"package {package} is not installed")


def check_tagger(args: Namespace) -> None:
    """Look for what --additional_input needs, which an evaluation needs too. Raises InputError."""
    if args.additional_input:
        if find_spec("spacy") is None:
            raise missing_package("--additional_input", "package spacy is not installed")
        find_model()
