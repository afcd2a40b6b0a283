"""Pictures of TensorBoard's pages, as a browser shows them: Chromium without a window.

    python -m experiments.dashboard --logdir runs --pages custom_scalars hparams --out_dir pictures

Starts TensorBoard for the log directory on this machine alone, and writes <page>.png for each page.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from argparse import Namespace
from pathlib import Path

from options.types import positive_int
from runtime.errors import InputError, exit_status
from runtime.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent

PAGES = ("custom_scalars", "scalars", "images", "hparams")  # Time Series needs a GPU to draw
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 120  # seconds


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen) -> None:
    """Until TensorBoard answers and has read the runs. Raises InputError if it does not."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/data/runs", timeout=10) as answer:
                if answer.read().strip() != b"[]":
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise InputError("TensorBoard shows no runs; is there a tensorboard folder in --logdir?")


def take_picture(browser: str, url: str, path: Path, args: Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        new = Path(directory) / "picture.png"
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={args.width},{args.height}", f"--screenshot={new}"]
        command += [f"--user-data-dir={directory}/profile", "--virtual-time-budget=30000", url]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise InputError(f"{browser} has taken no picture in {TIMEOUT} s") from None
        if not new.is_file():
            raise InputError(f"{browser} has taken no picture of {url}")
        with atomic_write(path, "wb") as file:
            file.write(new.read_bytes())
    print(path)


def main(args: Namespace) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise InputError(f"no browser here, expected one of {', '.join(BROWSERS)}")
    out_dir = Path(args.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{(port := free_port())}"
    logdir = Path(args.logdir).resolve()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir.name]
    command += ["--port", str(port), "--samples_per_plugin", "images=100"]
    # The page shows the log directory as it is given: its name, and not where this machine has it.
    board = subprocess.Popen(
        command, cwd=logdir.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(url, board)
        for page in args.pages:
            take_picture(browser, f"{url}/?darkMode=false#{page}", out_dir / f"{page}.png", args)
    finally:
        board.terminate()
        board.wait()


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--logdir", default=str(ROOT / "runs"), help="log directory that TensorBoard shows")
    add("--pages", nargs="+", choices=PAGES, default=PAGES, help="pages to picture")
    add("--out_dir", default=str(ROOT / "experiments" / "figures"), help="where <page>.png go")
    add("--width", type=positive_int, default=1600, help="of the window, in pixels")
    add("--height", type=positive_int, default=1200, help="of the window, in pixels")
    return parser


if __name__ == "__main__":
    args = get_args_parser().parse_args()
    sys.exit(exit_status(lambda: main(args)))
