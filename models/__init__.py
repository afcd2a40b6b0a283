"""Registries of the model's parts, and `build_model`, which puts them together."""

from argparse import Namespace

from torch import nn

from models.bert import BertModel
from models.features import FEATURES, POOLINGS, TRAIN_MODES, Features
from models.heads import HEADS
from models.hierarchical import HierarchicalEncoder
from models.mixture import MixtureEncoder
from models.multitask import MultitaskBert
from models.pal import ProjectedAttentionLayers
from models.tag_embeddings import TagEmbeddings
from tasks import TASKS, Task

__all__ = ["FEATURES", "HEADS", "POOLINGS", "TRAIN_MODES", "MultitaskBert", "build_model"]


def build_model(args: Namespace, encoder: BertModel) -> MultitaskBert:
    """Put features and heads for the run's tasks on `encoder`; freeze what the options say."""
    config = encoder.config
    features = Features(config, args.train_mode, args.layers, args.extension, args.pooling)
    heads = {name: build_head(args, TASKS[name], features.num_features) for name in args.tasks}
    if not args.train_classifier:
        for head in heads.values():
            head.requires_grad_(False)
    pals = None
    if args.use_pal:
        pals = {n: ProjectedAttentionLayers(config, args.pal_size) for n in args.tasks}
    return MultitaskBert(build_encoder(args, encoder), features, heads, args.pair_encoding, pals)


def build_encoder(args: Namespace, encoder: BertModel) -> nn.Module:
    """Freeze the encoder, hang tags on it and wrap it, as the options say."""
    if args.option == "pretrain":
        encoder.requires_grad_(False)
        for module in encoder.modules() if args.use_pal else ():
            if isinstance(module, nn.LayerNorm):  # trained beside the adapters, as is usual
                module.requires_grad_(True)
    if args.additional_input:
        encoder.embeddings.tag_embeddings = TagEmbeddings(encoder.config.hidden_size)
    if args.combined_models:
        encoder = MixtureEncoder(encoder, args.seed)
    if args.extension == "hierarchical":
        encoder = HierarchicalEncoder(encoder, args.pooling)
    return encoder


def build_head(args: Namespace, task: Task, num_features: int) -> nn.Module:
    num_hidden_layers = args.n_hidden_layers
    if task.takes_added_layers:
        num_hidden_layers += args.add_layers
    head = HEADS[task.heads[args.pair_encoding]]
    return head(num_features, task.num_outputs, num_hidden_layers, args.hidden_dropout_prob)
