"""What a run reports while it trains: metrics.jsonl, TensorBoard events, a profile."""

import json
import resource
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import workers
from batches import Rows
from checkpoint import atomic_write
from errors import InputError
from optimizers.conflicts import WHOLE, ConflictLog, cosine_tag
from run_directory import json_values
from tasks import TASKS

# What TensorBoard compares runs by, beside the options that were given: it shows a column for each,
# in order of their names.
COMPARED = {"batch_size", "lr", "projection", "task_scheduler"}
UNCOMPARED = {"resume", "ray_address", "run_name", "logdir", "filepath", "tensorboard_subfolder"}
UNCOMPARED |= {"dev_samples", "no_test_predictions", "save_every", "use_gpu", "local_files_only"}
UNCOMPARED |= {"write_summary", "profiler"}


class NullWriter:
    """Stands in for TensorBoard's writer under --no_tensorboard, so that the loop has no `if`."""

    def add_scalar(self, *args: object, **options: object) -> None:
        pass

    add_hparams = add_figure = add_custom_scalars = add_scalar

    def flush(self) -> None:
        pass

    close = flush


def peak_memory_mib(device: torch.device) -> float:
    """Peak of the GPU's allocated memory, or of this process's resident memory, in MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


class EventWriter:
    """TensorBoard's writer, whose errors name its directory. Events after `resumed_update` of an
    earlier process become void."""

    def __init__(self, events_dir: Path, resumed_update: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.events_dir = events_dir
        purge_step = None if resumed_update is None else resumed_update + 1
        self.writer = self.named(SummaryWriter)(
            str(events_dir), purge_step=purge_step, flush_secs=30
        )

    def __getattr__(self, name: str) -> Callable:
        return self.named(getattr(self.writer, name))

    def named(self, method: Callable) -> Callable:
        def call(*args: object, **options: object) -> object:
            try:
                return method(*args, **options)
            except OSError as error:
                raise OSError(
                    f"{self.events_dir}: events cannot be written: {error.strerror or error}; "
                    "make room and go on with --resume"
                ) from None

        return call


def build_run_log(
    args: Namespace,
    resumed_epoch: int,
    resumed_update: int,
    on_epoch: Callable[[dict], None] = lambda line: None,
) -> "RunLog | NullRunLog":
    """The log of the run that the options name, from the given epoch and update on.

    on_epoch: told every epoch's line once it is written.
    """
    if not workers.is_main():
        return NullRunLog()
    run_dir = Path(args.run_dir)
    events_dir = run_dir / args.tensorboard_subfolder if args.write_summary else None
    is_new = args.resume is None
    return RunLog(run_dir, events_dir, resumed_epoch, None if is_new else resumed_update, on_epoch)


class RunLog:
    """metrics.jsonl (a line an epoch) and TensorBoard events of one run.

    Step of events: updates since the run began. On resume, lines of later epochs are cut off and
    later events are marked as void. events_dir: where the events go; None writes none.
    """

    def __init__(
        self,
        run_dir: Path,
        events_dir: Path | None,
        resumed_epoch: int = 0,
        resumed_update: int | None = None,
        on_epoch: Callable[[dict], None] = lambda line: None,
    ) -> None:
        self.on_epoch = on_epoch
        self.path = run_dir / "metrics.jsonl"
        self.lines = []
        if self.path.is_file():
            lines = enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1)
            self.lines = [text for n, text in lines if self.epoch_of(n, text) <= resumed_epoch]
        self.writer = (
            NullWriter() if events_dir is None else EventWriter(events_dir, resumed_update)
        )

    def epoch_of(self, number: int, text: str) -> int:
        try:
            return int(json.loads(text)["epoch"])
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{self.path}:{number}: not a line of metrics; remove the line, or the file, to go "
                "on without what it held"
            ) from None

    def lay_out(self, names: list[str], pair_names: list[str]) -> None:
        """Write the page that answers at a glance: TensorBoard's Custom Scalars.

        A chart holds one line a run, whose colour TensorBoard chooses. names: of the tasks.
        pair_names: of the pairs whose gradients' cosines are logged.
        """
        scores = {name: TASKS[name].metric_name for name in names}
        pages = {
            "scores on dev": {"mean": "dev/mean"}
            | {f"{name}: {metric}": f"dev_{name}/{metric}" for name, metric in scores.items()},
            "losses": {name: f"loss/{name}" for name in names},
            "training": {
                "learning rate": "train/learning_rate",
                "gradient norm before clipping": "train/grad_norm",
                "examples a second": "train/examples_per_second",
            },
            "updates of an epoch": {name: f"updates/{name}" for name in names},
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
        self, step: int, losses: dict[str, float], grad_norm: float, lr: float, rate: float
    ) -> None:
        """One update's scalars: mean loss by task, gradient norm before clipping, learning rate."""
        for name, loss in losses.items():
            self.writer.add_scalar(f"loss/{name}", loss, step)
        self.writer.add_scalar("train/grad_norm", grad_norm, step)
        self.writer.add_scalar("train/learning_rate", lr, step)
        self.writer.add_scalar("train/examples_per_second", rate, step)

    def epoch(self, line: dict, step: int) -> None:
        """Append an epoch's line to metrics.jsonl and its dev metrics to the events."""
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
        self.on_epoch(line)

    def conflicts(self, conflicts: ConflictLog, first_update: int) -> None:
        """Write the cosines of the updates after `first_update` to the events."""
        for tag, cosine, step in conflicts.scalars(first_update):
            self.writer.add_scalar(tag, cosine, step)

    def conflict_figure(self, conflicts: ConflictLog) -> None:
        """Write the whole run's cosines as conflicts.png beside metrics.jsonl."""
        with atomic_write(self.path.with_name("conflicts.png"), "wb") as file:
            conflicts.figure().savefig(file, format="png", dpi=120)

    def finish(
        self,
        options: dict[str, object],
        scores: dict[str, float],
        mean: float,
        figures: dict[str, object],
        step: int,
    ) -> None:
        """Write hyper-parameters with the final metrics, and figures by tag."""
        for tag, figure in figures.items():
            self.writer.add_figure(tag, figure, step)
        names = (COMPARED | set(options["given"])) - UNCOMPARED
        compared = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in options.items()
            if name in names and value is not None
            if not name.endswith(("_dir", "_path", "_train", "_dev", "_test"))
        }
        finals = {f"final/{name}": score for name, score in (scores | {"mean": mean}).items()}
        self.writer.add_hparams(compared, finals, run_name=".")
        self.writer.close()


class NullRunLog:
    """Stands in for the log where worker 0 keeps it."""

    def update(self, *args: object) -> None:
        pass

    epoch = conflicts = conflict_figure = finish = lay_out = update


def dev_figures(data: dict[str, Rows], predictions: dict[str, np.ndarray]) -> dict[str, object]:
    """Tag -> figure of every task's dev predictions: a confusion matrix, or a scatter of scores."""
    figures = {}
    for name, rows in data.items():
        confusion = rows.task.confusion(predictions[name], rows.labels)
        if confusion is not None:
            figures[f"confusion/{name}"] = confusion_figure(confusion, rows.task.class_names)
        elif rows.task.label_type is float:
            figures[f"scatter/{name}"] = scatter_figure(predictions[name], rows.labels)
    return figures


def scatter_figure(predictions: np.ndarray, labels: np.ndarray) -> object:
    """Predicted over true scores; on the diagonal they are equal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.subplots()
    low, high = min(labels.min(), predictions.min()), max(labels.max(), predictions.max())
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.scatter(labels, predictions, s=6, alpha=0.3, color="tab:blue", edgecolors="none")
    axes.set_aspect("equal")
    axes.set_xlabel("true score")
    axes.set_ylabel("predicted score")
    return figure


def confusion_figure(confusion: np.ndarray, class_names: tuple[str, ...]) -> object:
    """Counts and shares of each true class, a row a true class."""
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(class_names)), class_names, rotation=30, ha="right")
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if shares[row, column] > 0.5 else "black"
        text = f"{count}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    figure.colorbar(image, label="share of the true class")
    return figure


@contextmanager
def profiler(trace_path: Path | None) -> Iterator[Callable[[], None]]:
    """Record updates 3 to 5 from here on: a trace for chrome://tracing, and a printed table.

    Yields the function to call after every update. None records nothing.
    """
    if trace_path is None:
        yield lambda: None
        return

    def write(result: torch.profiler.profile) -> None:
        result.export_chrome_trace(str(trace_path))
        print(result.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
        print(f"profile written to {trace_path}")

    updates = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
    with torch.profiler.profile(schedule=updates, on_trace_ready=write) as profile:
        yield profile.step
