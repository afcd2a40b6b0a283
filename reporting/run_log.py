"""What a run reports while it trains: metrics.jsonl, events, a profile, its duration."""

import json
import resource
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from optimizers.conflicts import WHOLE, ConflictLog, cosine_tag
from reporting.duration import DurationEstimate
from reporting.events import EventWriter, NullWriter
from reporting.metrics_file import read_lines
from runtime import workers
from runtime.files import atomic_write, json_values
from tasks import Task

# What TensorBoard compares runs by, beside the options that were given: it shows one column for
# each, in the order of their names.
COMPARED = {"batch_size", "lr", "projection", "task_scheduler"}
UNCOMPARED = {"resume", "ray_address", "run_name", "logdir", "filepath", "tensorboard_subfolder"}
UNCOMPARED |= {"dev_samples", "no_test_predictions", "save_every", "use_gpu", "local_files_only"}
UNCOMPARED |= {"write_summary", "profiler", "tasks_file"}


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak of a GPU's allocated or of this process's resident memory, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # in bytes; Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def build_run_log(
    args: Namespace,
    resumed_epoch: int,
    resumed_update: int,
    on_epoch: Callable[[dict], None] | None = None,
) -> "RunLog":
    """Return the log of the run that the options name.

    Args:
        args: the run's options.
        resumed_epoch: epochs that were finished before this process.
        resumed_update: updates that were done before this process.
        on_epoch: told the line of every epoch, those of an earlier process first.
    """
    run_dir = Path(args.run_dir)
    writes_events = args.write_summary and workers.is_main()
    events_dir = run_dir / args.tensorboard_subfolder if writes_events else None
    is_new = args.resume is None
    log = RunLog(run_dir, events_dir, resumed_epoch, None if is_new else resumed_update, on_epoch)
    if args.profiler and workers.is_main():
        log.trace_path = run_dir / "profile.json"
    return log


class RunLog:
    """metrics.jsonl (one line per epoch) and the TensorBoard events of one run.

    The step of an event is the number of updates since the run began. On resume, lines of later
    epochs are dropped and later events are marked as void. Only worker 0 writes.

    Args:
        run_dir: the run's directory.
        events_dir: where the events go; None writes none.
        resumed_epoch: keep the lines of so many epochs.
        resumed_update: keep the events of so many updates; None for a new run.
        on_epoch: told the line of every epoch, the kept ones first; `fit` tells the new ones.
    """

    def __init__(
        self,
        run_dir: Path,
        events_dir: Path | None,
        resumed_epoch: int = 0,
        resumed_update: int | None = None,
        on_epoch: Callable[[dict], None] | None = None,
    ) -> None:
        self.on_epoch = on_epoch or (lambda line: None)
        self.path = run_dir / "metrics.jsonl"
        self.trace_path: Path | None = None  # where --profiler writes
        self.estimate = DurationEstimate(0, 0)
        self.lines: list[str] = []
        if self.path.is_file():
            for line in read_lines(self.path):
                if line["epoch"] <= resumed_epoch:
                    self.lines.append(json.dumps(line))
                    self.on_epoch(line)
        self.writer = (
            NullWriter() if events_dir is None else EventWriter(events_dir, resumed_update)
        )

    def begin(
        self,
        tasks: list[Task],
        weighted_names: list[str],
        projected_names: list[str],
        pair_names: list[str],
        num_updates: int,
        num_evaluated: int,
    ) -> None:
        """Lay out TensorBoard's overview, its page Custom Scalars, and expect a duration.

        A chart holds one line per run, whose colour TensorBoard chooses.

        Args:
            tasks: those that are evaluated.
            weighted_names: those whose losses a loss weighting weighs.
            projected_names: those whose gradients a projection weighs.
            pair_names: the pairs of tasks whose gradients' cosines are logged.
            num_updates: as in `DurationEstimate`.
            num_evaluated: as there.
        """
        self.estimate = DurationEstimate(num_updates, num_evaluated)
        metrics = {task.name: task.metric_name for task in tasks}
        pages = {
            "scores on dev": {"mean": "dev/mean"}
            | {f"{name}: {metric}": f"dev_{name}/{metric}" for name, metric in metrics.items()},
            "losses": {name: f"loss/{name}" for name in metrics},
            "weights of the losses": {name: f"loss_weight/{name}" for name in weighted_names},
            "training": {
                "learning rate": "train/learning_rate",
                "gradient norm before clipping": "train/grad_norm",
                "examples per second": "train/examples_per_second",
            },
            "updates of an epoch": {name: f"updates/{name}" for name in metrics},
            "weights of the gradients": {
                name: f"gradient_weight/{name}" for name in projected_names
            },
            "cosines of task gradients, below 0: conflict": {
                pair: cosine_tag(pair, WHOLE) for pair in pair_names
            },
        }
        layout = {
            page: {title: ["Multiline", [tag]] for title, tag in charts.items()}
            for page, charts in pages.items()
            if charts
        }
        self.writer.add_custom_scalars(layout)

    def update(
        self,
        step: int,
        losses: dict[str, float],
        loss_weights: dict[str, float],
        gradient_weights: dict[str, float],
        grad_norm: float,
        learning_rate: float,
        num_examples: int,
        seconds: float,
    ) -> float:
        """Write one update's scalars; return its examples per second.

        Args:
            step: updates since the run began.
            losses: mean loss by task.
            loss_weights: by task, those of a loss weighting; empty without one.
            gradient_weights: by task, those of a projection; empty without one.
            grad_norm: the gradient's norm before clipping.
            learning_rate: that of this update.
            num_examples: examples that it trained on.
            seconds: what it took.
        """
        rate = num_examples / seconds
        for name, loss in losses.items():
            self.writer.add_scalar(f"loss/{name}", loss, step)
        for name, weight in loss_weights.items():
            self.writer.add_scalar(f"loss_weight/{name}", weight, step)
        for name, weight in gradient_weights.items():
            self.writer.add_scalar(f"gradient_weight/{name}", weight, step)
        self.writer.add_scalar("train/grad_norm", grad_norm, step)
        self.writer.add_scalar("train/learning_rate", learning_rate, step)
        self.writer.add_scalar("train/examples_per_second", rate, step)
        self.estimate.update(num_examples, seconds)
        return rate

    def epoch(self, line: dict, first_update: int, conflicts: ConflictLog) -> None:
        """Append an epoch's line to metrics.jsonl; write its metrics and cosines to the events.

        Args:
            line: as `Training.finish_epoch` returns it.
            first_update: updates before this epoch.
            conflicts: the cosines of all updates.
        """
        if not workers.is_main():
            return
        step = line["update"]
        self.lines.append(json.dumps(json_values(line)))
        with atomic_write(self.path) as file:
            file.write("\n".join(self.lines) + "\n")
        for name, values in line["dev"].items():
            for metric, value in values.items():
                self.writer.add_scalar(f"dev_{name}/{metric}", value, step)
            self.writer.add_scalar(f"updates/{name}", line["updates"].get(name, 0), step)
        for expert, weight in enumerate(line.get("gate", []), start=1):
            self.writer.add_scalar(f"gate/expert_{expert}", weight, step)
        self.writer.add_scalar("dev/mean", line["mean"], step)
        self.writer.flush()
        for tag, cosine, update in conflicts.scalars(first_update):
            self.writer.add_scalar(tag, cosine, update)

    def finish(
        self,
        options: dict[str, Any],
        scores: dict[str, float],
        figures: dict[str, Any],
        conflicts: ConflictLog,
        step: int,
    ) -> None:
        """Write hyper-parameters with the final metrics, figures by tag, and conflicts.png.

        Args:
            options: the run's options.
            scores: the final scores by name.
            figures: matplotlib figures by tag.
            conflicts: drawn beside metrics.jsonl, if it has pairs of tasks.
            step: updates since the run began.
        """
        if not workers.is_main():
            return
        if conflicts.pairs:
            with atomic_write(self.path.with_name("conflicts.png"), "wb") as file:
                conflicts.figure().savefig(file, format="png", dpi=120)
        for tag, figure in figures.items():
            self.writer.add_figure(tag, figure, step)
        names = (COMPARED | set(options["given"])) - UNCOMPARED
        compared = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in options.items()
            if name in names and value is not None
            if not name.endswith(("_dir", "_path", "_train", "_dev", "_test"))
        }
        finals = {f"final/{name}": score for name, score in scores.items()}
        self.writer.add_hparams(compared, finals, run_name=".")
        self.writer.close()

    @contextmanager
    def profiler(self, epoch: int) -> Iterator[Callable[[], None]]:
        """Under --profiler, record updates 3 to 5 of the first epoch.

        Writes a trace for chrome://tracing and prints a table. Yields the function to call after
        every update.

        Args:
            epoch: the finished epochs.
        """
        if self.trace_path is None or epoch:
            yield lambda: None
            return

        def write(result: torch.profiler.profile) -> None:
            assert self.trace_path is not None, "there is a profile only if it is written"
            with tempfile.TemporaryDirectory() as folder:  # torch itself would follow a link
                result.export_chrome_trace(f"{folder}/profile.json")
                with atomic_write(self.trace_path, "wb") as file:
                    file.write(Path(folder, "profile.json").read_bytes())
            print(result.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
            print(f"profile written to {self.trace_path}")

        updates = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
        with torch.profiler.profile(schedule=updates, on_trace_ready=write) as profile:
            yield profile.step
