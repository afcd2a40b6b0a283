"""Which options have an effect only together with others. Parsers and tests read the table."""

from argparse import Namespace
from collections.abc import Callable

from options.legal import NEED_ALL_TASKS

# Options that have an effect only together with others: name -> (what they need, whether it is
# given).
NEEDS: dict[str, tuple[str, Callable[[Namespace], object]]] = (
    {
        "restarts": ("--scheduler cosine", lambda a: a.scheduler == "cosine"),
        "warmup_fraction": (
            "--scheduler linear_warmup or cosine",
            lambda a: a.scheduler in ("linear_warmup", "cosine"),
        ),
        "rho": ("--optimizer sophiah", lambda a: a.optimizer == "sophiah"),
        "hess_interval": ("--optimizer sophiah", lambda a: a.optimizer == "sophiah"),
        "beta_vaccine": ("--projection vaccine", lambda a: a.projection == "vaccine"),
        "vaccine_groups": ("--projection vaccine", lambda a: a.projection == "vaccine"),
        "cagrad_c": ("--projection cagrad", lambda a: a.projection == "cagrad"),
        "fairgrad_alpha": ("--projection fairgrad", lambda a: a.projection == "fairgrad"),
        "batches_per_update": ("--combine_strategy", lambda a: a.combine_strategy != "none"),
        "temperature": (
            "--task_scheduler temperature",
            lambda a: a.task_scheduler == "temperature",
        ),
        "loss_weighting_lr": (
            "--loss_weighting uncertainty, imtl_l, gradnorm or famo",
            lambda a: a.loss_weighting in ("uncertainty", "imtl_l", *NEED_ALL_TASKS),
        ),
        "gradnorm_alpha": ("--loss_weighting gradnorm", lambda a: a.loss_weighting == "gradnorm"),
        "pal_size": ("--use_pal", lambda a: a.use_pal),
        "lora_alpha": ("--lora_rank", lambda a: a.lora_rank is not None),
        "lora_per_task": ("--lora_rank", lambda a: a.lora_rank is not None),
        "layers": ("--train_mode single_layers", lambda a: a.train_mode == "single_layers"),
        "segment_length": ("--extension hierarchical", lambda a: a.extension == "hierarchical"),
        "unfreeze_interval": ("--option pretrain", lambda a: a.option == "pretrain"),
        "hpo_only": ("--hpo", lambda a: a.hpo or a.hpo_resume),
        "ray_address": ("--hpo", lambda a: a.hpo or a.hpo_resume),
    }
    | {
        name: ("--hpo", lambda a: a.hpo)
        for name in ("hpo_trials", "hpo_cpus", "hpo_gpus", "hpo_concurrent", "hpo_space")
    }
    | {
        name: ("--use_smart_regularization", lambda a: a.use_smart_regularization)
        for name in ("smart_weight_regularization", "smart_radius", "smart_mu")
    }
)
