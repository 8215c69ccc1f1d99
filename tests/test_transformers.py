"""Hugging Face models as they are, from small random configurations: heads and neurons go, exactly, down to ONNX."""

import pytest
import shim  # noqa: F401 - transformers imports torchvision where it finds it
import torch
from oracle import check
from test_recurrent import runs_in_onnxruntime

transformers = pytest.importorskip("transformers", exc_type=ImportError)

IMAGE = (1, 3, 32, 32)
TEXT = torch.randint(1, 90, (1, 12), generator=torch.Generator().manual_seed(0))
# Two layers of four heads of width eight and 64 neurons, as most of these configurations call them.
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEADS, NEURONS = [4, 4], [64, 64]


def made(model, config, **settings):
    """Build ``model`` from its configuration; what it keeps for the next token is left out of the outputs."""
    return lambda: getattr(transformers, model)(getattr(transformers, config)(**settings))


# Name: (builder, example, units in each group that attention makes, units in each other group). Everything that a layer
# norm reads is pinned; what is left of a layer are its heads and the neurons between the two linear layers of its MLP.
MODELS = {
    # After the layers, the pooler's 32 channels are read by the classifier, with nothing but a tanh between.
    "bert": (made("BertForSequenceClassification", "BertConfig", **SIZES, **WORDS), TEXT, HEADS, [*NEURONS, 32]),
    # Its pre_classifier does what BERT's pooler does.
    "distilbert": (
        made(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=64,
            **WORDS,
        ),
        TEXT,
        HEADS,
        [*NEURONS, 32],
    ),
    # An MLP is four times as wide as the model.
    "gpt2": (
        made("GPT2LMHeadModel", "GPT2Config", n_embd=32, n_layer=2, n_head=4, n_positions=16, use_cache=False, **WORDS),
        TEXT,
        HEADS,
        [128, 128],
    ),
    # Four query heads share two keys and values: the two queries of a key and the key itself are one unit.
    "llama": (
        made("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, use_cache=False, **SIZES, **WORDS),
        TEXT,
        [2, 2],
        NEURONS,
    ),
    "vit": (
        made("ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, **SIZES),
        IMAGE,
        HEADS,
        NEURONS,
    ),
    # Two stages of two blocks; 16 channels, then 32; an MLP is four times as wide as its stage.
    "swin": (
        made(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
        ),
        IMAGE,
        [2, 2, 4, 4],
        [64, 64, 128, 128],
    ),
    # Four stages of one block, each MLP four times as wide as its stage. The decoder projects each stage to 16
    # channels, lays the four side by side and fuses them into 16.
    "segformer": (
        made(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            hidden_sizes=[8, 16, 24, 32],
            depths=[1] * 4,
            num_attention_heads=[1, 2, 3, 4],
            decoder_hidden_size=16,
        ),
        (1, 3, 64, 64),
        [1, 2, 3, 4],
        [32, 64, 96, 128, 16, 16, 16, 16, 16],
    ),
    # The first of two convolutions is read by the second, whose 32 channels are the trunk.
    "whisper": (
        lambda: transformers.models.whisper.modeling_whisper.WhisperEncoder(
            transformers.WhisperConfig(
                d_model=32,
                encoder_layers=2,
                encoder_attention_heads=4,
                encoder_ffn_dim=64,
                num_mel_bins=16,
                max_source_positions=50,
            )
        ),
        (1, 16, 100),
        HEADS,
        [32, *NEURONS],
    ),
    # Seven convolutions of 16 channels, the last of which a layer norm reads.
    "wav2vec2": (
        made(
            "Wav2Vec2Model",
            "Wav2Vec2Config",
            conv_dim=[16] * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            **SIZES,
            **WORDS,
        ),
        (1, 2000),
        HEADS,
        [*[16] * 6, *NEURONS],
    ),
}


def example_of(given):
    return given if isinstance(given, torch.Tensor) else torch.randn(given, generator=torch.Generator().manual_seed(0))


def units_of(name, model, example, **options):
    _, _, heads, others = MODELS[name]
    wide = torch.utils._pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, example)
    coupling = check(model, wide, sum(heads) + sum(others), **options)
    assert sorted(group.size for group in coupling.groups if "att" in group.name) == sorted(heads)
    assert sorted(group.size for group in coupling.groups if "att" not in group.name) == sorted(others)


@pytest.mark.parametrize("name", MODELS)
def test_heads_and_neurons_are_units(name, tmp_path):
    build, given, *_ = MODELS[name]
    model, example = build(), example_of(given)
    units_of(name, model, example)
    runs_in_onnxruntime(model.float(), example, tmp_path / "slim.onnx")


@pytest.mark.parametrize("name", MODELS)
def test_attention_written_out_has_the_same_units(name):
    build, given, *_ = MODELS[name]
    model = build()
    model.set_attn_implementation("eager")
    units_of(name, model, example_of(given), seeds=2)


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama"])
def test_padded_text_by_name_has_the_same_units(name):
    ids = torch.cat([TEXT, TEXT.flip(1)])
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    units_of(name, MODELS[name][0](), {"input_ids": ids, "attention_mask": mask}, seeds=2)
