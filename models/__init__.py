"""The registries of the model's parts, and `build_model`, which puts a model together."""

from argparse import Namespace

from torch import nn

from models.auto import TransformersEncoder
from models.bert import BertModel, Encoder
from models.features import FEATURES, POOLINGS, TRAIN_MODES, Features
from models.heads import HEADS
from models.hierarchical import HierarchicalEncoder
from models.lora import LowRankAdapters
from models.mixture import MixtureEncoder
from models.multitask import MultitaskBert
from models.pal import ProjectedAttentionLayers
from models.tag_embeddings import TagEmbeddings
from tasks import Task

__all__ = ["FEATURES", "HEADS", "POOLINGS", "TRAIN_MODES", "MultitaskBert", "build_model"]


def build_model(args: Namespace, encoder: BertModel | TransformersEncoder) -> MultitaskBert:
    """Build the model that the options describe.

    New weights are drawn from torch's default generator. What the options freeze does not require
    gradients afterwards.

    Args:
        args: the run's options.
        encoder: the model is built around it, not around a copy.
    """
    config = encoder.config
    features = Features(config, args.train_mode, args.layers, args.extension, args.pooling)
    heads = {n: build_head(args, task, features.num_features) for n, task in args.tasks.items()}
    pals = {
        name: ProjectedAttentionLayers(config, args.pal_size)
        for name in (args.tasks if args.use_pal else ())
    }
    adapters = build_adapters(args, encoder)
    whole = build_encoder(args, encoder)
    return MultitaskBert(whole, features, heads, args.pair_encoding, pals, adapters)


def build_adapters(args: Namespace, encoder: Encoder) -> LowRankAdapters | None:
    """Attach low-rank adapters to the encoder and freeze the rest of it, if the options say so."""
    if args.lora_rank is None:
        return None
    names = args.tasks if args.lora_per_task else ()
    return LowRankAdapters(encoder, args.lora_rank, args.lora_alpha, names)


def build_encoder(args: Namespace, encoder: BertModel | TransformersEncoder) -> Encoder:
    """Freeze the encoder, attach tag embeddings and wrap it, as the options say."""
    if args.gradient_checkpointing:
        encoder.checkpoint_gradients()
    if args.option == "pretrain":
        encoder.requires_grad_(False)
        for module in encoder.modules() if args.use_pal else ():
            if isinstance(module, nn.LayerNorm):  # as is usual for adapters, trained beside them
                module.requires_grad_(True)
    if args.additional_input:
        encoder.embeddings.tag_embeddings = TagEmbeddings(encoder.embedding_size)
    wrapped: Encoder = MixtureEncoder(encoder, args.seed) if args.combined_models else encoder
    if args.extension == "hierarchical":
        wrapped = HierarchicalEncoder(wrapped, args.pooling)
    return wrapped


def build_head(args: Namespace, task: Task, num_features: int) -> nn.Module:
    """Build the head that the task names for the pair encoding, frozen if the options say so."""
    num_hidden_layers = args.n_hidden_layers + args.add_layers * task.takes_added_layers
    key = task.heads[args.pair_encoding]
    options = {"label_range": task.label_range} if key == "cosine" else {}
    head = HEADS[key](
        num_features, task.num_outputs, num_hidden_layers, args.hidden_dropout_prob, **options
    )
    return head.requires_grad_(args.train_classifier)
