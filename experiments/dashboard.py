"""Take pictures of TensorBoard's pages as a browser shows them: Chromium without a window.

    python -m experiments.dashboard --logdir runs --pages custom_scalars hparams --out_dir pictures

Starts TensorBoard for the log directory on this machine alone, and writes <page>.png for each page.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from contextlib import chdir, suppress
from pathlib import Path

from options.parsing import ArgumentParser
from options.types import positive_int
from runtime.errors import InputError, exit_status
from runtime.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent

PAGES = ("custom_scalars", "scalars", "images", "hparams")  # Time Series needs a GPU to draw
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 120  # seconds


def main(args: Namespace) -> None:
    """Start TensorBoard and take a picture of each page.

    Raises:
        InputError: there is no browser, no run, or no picture.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError(f"no browser here, expected one of {', '.join(BROWSERS)}")
    logdir, out_dir = Path(args.logdir).resolve(), Path(args.out_dir).resolve()
    # The page shows the log directory as it is given: its name, and not where this machine has it.
    with chdir(logdir.parent):
        url = start_tensorboard(logdir.name)
        wait_for_runs(url)
        for page in args.pages:
            take_picture(browser, f"{url}?darkMode=false#{page}", out_dir / f"{page}.png", args)


def start_tensorboard(logdir: str) -> str:
    """Serve a log directory, read once, until this process ends; return the URL."""
    from tensorboard import program  # slow to import

    board = program.TensorBoard()
    flags = ["--port", "0", "--reload_interval", "0", "--samples_per_plugin", "images=100"]
    board.configure(argv=["tensorboard", "--logdir", logdir, "--load_fast", "false", *flags])
    return board.launch()


def wait_for_runs(url: str) -> None:
    """Wait until TensorBoard has read the runs.

    Raises:
        InputError: it shows none for a long time.
    """
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"{url}data/runs", timeout=10) as answer:
            if answer.read().strip() != b"[]":
                return
        time.sleep(0.5)
    raise InputError("TensorBoard shows no runs; is there a tensorboard folder in --logdir?")


def take_picture(browser: str, url: str, path: Path, args: Namespace) -> None:
    """Write a picture of a page, or leave the file as it was.

    Raises:
        InputError: the browser writes none.
    """
    with tempfile.TemporaryDirectory() as directory:
        new = Path(directory) / "picture.png"
        command = [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--window-size={args.width},{args.height}", f"--screenshot={new}"),
            *(f"--user-data-dir={directory}/profile", "--virtual-time-budget=30000", url),
        ]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=TIMEOUT)
        if not new.is_file():
            raise InputError(f"{browser} has taken no picture of {url} in {TIMEOUT} s")
        with atomic_write(path, "wb", make_parents=True) as file:
            file.write(new.read_bytes())
    print(path)


def get_args_parser() -> ArgumentParser:
    """Return the parser of all options."""
    parser = ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--logdir", default=str(ROOT / "runs"), help="log directory that TensorBoard shows")
    add("--pages", nargs="+", choices=PAGES, default=PAGES, help="pages to picture")
    add("--out_dir", default=str(ROOT / "experiments" / "figures"), help="folder of <page>.png")
    add("--width", type=positive_int, default=1600, help="width of the window in pixels")
    add("--height", type=positive_int, default=1200, help="height of the window in pixels")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(get_args_parser().parse_args())))
