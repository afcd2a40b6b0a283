"""What encoders of transformers do not take."""

from argparse import Namespace

# Options that encoders of transformers do not take: name -> (why not, the model types that do not;
# none for all).
NOT_WRAPPED: dict[str, tuple[str, tuple[str, ...]]] = {
    "use_pal": ("projected attention layers lie inside the layers of our own encoder", ()),
    "compile": ("only the layers of our own encoder are compiled", ()),
    "unfreeze_interval": ("all layers share their weights", ("albert",)),
    "lora_rank": ("one map of a layer gives query, key and value", ("modernbert",)),
    "gradient_checkpointing": ("transformers has none for it", ("mpnet", "albert")),
}


def refused_by_encoder(args: Namespace, model_type: str) -> str | None:
    """Return what is wrong with options beside an encoder of transformers; None if nothing is."""
    if args.gradient_checkpointing and args.option == "pretrain":
        return (
            f"--gradient_checkpointing with --option pretrain does not go with an encoder of type "
            f"{model_type}: transformers recomputes trained layers alone; drop one"
        )
    for name, (reason, types) in NOT_WRAPPED.items():
        if getattr(args, name) and model_type in (types or (model_type,)):
            return (
                f"--{name} does not go with an encoder of type {model_type}: {reason}; drop it, or "
                "use --model_name minilm-l6, bert-base or roberta-base"
            )
    return None
