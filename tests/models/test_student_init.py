"""Shapes of students, and cutting them from their teachers."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, FNetConfig

from hrkd_cli.choices import Init
from hrkd_cli.errors import ModelError, UsageError
from hrkd_cli.models.loading import new_classifier, output_layer, set_heads
from hrkd_cli.models.model_source import SIZES, Shape, parse_shape
from hrkd_cli.models.student_init import (
    _Pruning,
    build_student,
    check_dimensions,
    layer_map,
    prune_weights,
    student_config,
    student_shape,
)
from hrkd_cli.predict.heads import DomainHeads
from tiny import ARCHITECTURES, tiny_config, write_encoder

HEADS = DomainHeads.build({"books": ["bad", "good"], "music": ["bad", "good", "odd"]})
NARROWING = tuple(a for a in ARCHITECTURES if a != "modernbert")


def make_teacher(architecture="bert", **sizes):
    torch.manual_seed(0)
    config = tiny_config(architecture, **{"layers": 4, **sizes})
    set_heads(config, HEADS)
    return new_classifier(config)


def build(spec, teacher, heads=HEADS, *, teacher_heads=HEADS, init=Init.TEACHER, seed=1):
    return build_student(spec, teacher, heads, teacher_heads=teacher_heads, init=init, seed=seed)[0]


def run(model):
    ids = torch.arange(5, 14).view(1, 9)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "tiny", "small", "medium", "base", "large"),
    [
        (12, 768, 12, "2x120", "4x312", "4x384", "6x768", "8x768"),
        (6, 384, 12, "2x120", "3x312", "3x384", "3x384", "4x384"),
        (12, 256, 4, "2x128", "4x256", "4x256", "6x256", "8x256"),
        (1, 64, 4, "1x64", "1x64", "1x64", "1x64", "1x64"),
        (24, 1024, 16, "2x128", "12x304", "12x384", "12x1024", "16x1024"),
    ],
)
def test_sizes_depend_on_the_teacher(layers, width, heads, tiny, small, medium, base, large):
    teacher = tiny_config(layers=layers, width=width, heads=heads)
    assert [str(student_shape(spec, teacher)) for spec in (*SIZES, None)] == [tiny, small, medium, base, large, small]


def test_sizes_of_teachers_that_cannot_be_narrowed_differ_in_layers_only():
    teacher = tiny_config("modernbert", layers=12, width=768, heads=12)
    assert [str(student_shape(spec, teacher)) for spec in SIZES] == ["2x768", "4x768", "4x768", "6x768", "8x768"]


def test_a_shape_or_a_model_is_no_size():
    teacher = tiny_config(layers=12, width=768, heads=12)
    assert student_shape("5x384", teacher) == Shape(5, 384)
    assert student_shape("./tiny", teacher) is None


def test_feed_forward_width_of_students():
    teacher = tiny_config(layers=12, width=768, heads=12)
    widths = {
        spec: student_config(teacher, parse_shape(spec), HEADS, init=Init.TEACHER).intermediate_size
        for spec in ("4x312", "4x384", "4x768")
    }
    assert widths == {"4x312": 1200, "4x384": 1536, "4x768": 3072}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("9x32", "the teacher has 4 layers"),
        ("0x32", "give 1 to 4"),
        ("2x30", r"multiple of the teacher's 4 attention heads, for example 28 or 32"),
        ("2x64", "wider than the teacher.*--init random"),
    ],
)
def test_shapes_that_do_not_fit(spec, words):
    with pytest.raises(UsageError, match=words):
        build(spec, make_teacher())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_student_of_all_layers_is_its_teacher(architecture):
    teacher = make_teacher(architecture)
    student = build("4x32", teacher)
    torch.testing.assert_close(run(student).logits, run(teacher).logits)


def test_layers_are_those_the_student_learns_from():
    teacher = make_teacher("bert")
    student = build("2x32", teacher)
    for own, origin in ((0, 1), (1, 3)):
        torch.testing.assert_close(
            student.bert.encoder.layer[own].intermediate.dense.weight,
            teacher.bert.encoder.layer[origin].intermediate.dense.weight,
        )


def test_modern_layer_kinds_follow_their_layers():
    teacher = make_teacher("modernbert", layers=6)
    student = build("3x32", teacher)
    kinds = getattr(teacher.config, "layer_types", None)
    if kinds is not None:
        assert student.config.layer_types == [kinds[1], kinds[3], kinds[5]]
    assert student.config.num_hidden_layers == 3


@pytest.mark.parametrize("architecture", NARROWING)
def test_narrowing_keeps_the_heaviest_dimensions(architecture):
    """A teacher that uses only some dimensions is cut to exactly those, so its function survives."""
    teacher = make_teacher(architecture)
    student = build("4x16", teacher)
    assert run(student).hidden_states[-1].shape == (1, 9, 16)
    # Put the narrow student's weights into a wide model in which every second dimension is dead: cutting finds them.
    alive = torch.arange(0, 32, 2)
    wide = {name: torch.zeros_like(t) for name, t in teacher.state_dict().items()}
    narrow = {name: torch.randn_like(t) for name, t in student.state_dict().items()}
    for name, tensor in narrow.items():
        if wide[name].shape == tensor.shape:
            wide[name] = tensor
            continue
        where = [alive_axis(have, want, alive) for have, want in zip(wide[name].shape, tensor.shape, strict=True)]
        wide[name][torch.meshgrid(*where, indexing="ij")] = tensor
    teacher.load_state_dict(wide)
    cut = prune_weights(teacher, student, (1, 2, 3, 4), dict(enumerate(range(HEADS.num_outputs))))
    for name, tensor in narrow.items():
        assert torch.equal(cut[name], tensor), name


def test_the_kept_dimensions_do_not_depend_on_the_order_of_axes_that_are_as_long():
    """Positions, and the dimensions inside the heads, may be as many as the width."""
    config = make_teacher().config
    config.max_position_embeddings = config.hidden_size
    teacher = new_classifier(config)
    before = _Pruning(teacher, 16).hidden
    state = teacher.state_dict()
    order = torch.randperm(config.hidden_size, generator=torch.Generator().manual_seed(0))
    for name, tensor in state.items():
        if name.endswith("position_embeddings.weight") or ".query." in name or ".key." in name or ".value." in name:
            state[name] = tensor[order]
        elif name.endswith("attention.output.dense.weight"):
            state[name] = tensor[:, order]
    teacher.load_state_dict(state)
    assert torch.equal(_Pruning(teacher, 16).hidden, before)


def alive_axis(have: int, want: int, alive: torch.Tensor) -> torch.Tensor:
    if have == want:
        return torch.arange(have)
    return alive if have == 32 else torch.arange(want)  # feed-forward: the first neurons


def test_architectures_without_attention_cannot_be_distilled():
    check_dimensions(tiny_config("distilbert"))
    with pytest.raises(ModelError, match="fnet models cannot be distilled: the config has no num_attention_heads"):
        check_dimensions(FNetConfig())


def test_narrowing_what_is_not_known_names_what_works():
    with pytest.raises(UsageError, match=r"modernbert teachers cannot be narrowed; use 2x32, --init random"):
        build("2x16", make_teacher("modernbert"))


def test_outputs_are_taken_over_by_name():
    """The teacher's outputs stand in another order, one is unknown to it, and one it has is not wanted."""
    teacher = make_teacher()
    theirs = DomainHeads({"music": ("bad", "good"), "film": ("bad",)}, {"music": (4, 1), "film": (0,)}, 5)
    ours = DomainHeads.build({"film": ["bad", "good"], "music": ["bad", "good"]})
    student = build("4x32", teacher, ours, teacher_heads=theirs)
    random = build("4x32", teacher, ours, teacher_heads=theirs, init=Init.RANDOM)
    for row, origin in ((0, 0), (2, 4), (3, 1)):
        assert torch.equal(student.classifier.weight[row], teacher.classifier.weight[origin])
    assert torch.equal(student.classifier.weight[1], random.classifier.weight[1])


def test_random_students_depend_on_the_seed_only():
    teacher = make_teacher()
    weights = []
    for seed in (3, 3, 4):
        student = build("2x64", teacher, init=Init.RANDOM, seed=seed)
        weights.append(student.bert.pooler.dense.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_pretrained_encoder_takes_its_teachers_head(tmp_path, architecture):
    """Its own layers stay; pooler and outputs become the teacher's, outputs by name."""
    teacher = make_teacher(architecture)
    encoder = write_encoder(tmp_path / "encoder", architecture, layers=2, seed=9)
    ours = DomainHeads.build({"music": ["bad", "good"]})
    student, text = build_student(str(encoder), teacher, ours, teacher_heads=HEADS, init=Init.TEACHER, seed=1)
    assert text == f"student {encoder}: its own layers, and its teacher's head"
    own, theirs, start = student.state_dict(), teacher.state_dict(), load_file(encoder / "model.safetensors")
    name, _ = output_layer(student)
    assert torch.equal(own[f"{name}.weight"], theirs[f"{name}.weight"][2:4])  # music/bad, music/good
    prefix = f"{student.base_model_prefix}."
    for key, tensor in own.items():
        plain = key.removeprefix(prefix)
        if key.startswith(prefix) and "pooler" not in key:
            assert torch.equal(tensor, start[plain]), key
        elif not key.startswith(name):
            assert torch.equal(tensor, theirs[key]), key


def test_a_head_of_another_width_stays_random(tmp_path):
    encoder = write_encoder(tmp_path / "encoder", layers=2, width=16)
    _, text = build_student(str(encoder), make_teacher(), HEADS, teacher_heads=HEADS, init=Init.TEACHER, seed=1)
    assert text == f"student {encoder}: its own layers, and a random head"


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [(12, 4, (3, 6, 9, 12)), (6, 3, (2, 4, 6)), (7, 2, (4, 7)), (12, 5, (2, 5, 7, 10, 12)), (3, 3, (1, 2, 3))],
)
def test_layer_map_rounds_half_up(teacher, student, expected):
    assert layer_map(teacher, student) == expected


def test_a_value_for_each_layer_is_kept_for_the_layers_that_a_student_starts_from():
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 4}
    teacher = AutoConfig.for_model("longformer", vocab_size=64, attention_window=[2, 4, 6, 8], **sizes)
    config = student_config(teacher, Shape(2, 32), HEADS, init=Init.TEACHER)
    assert config.attention_window == [4, 8]
    new_classifier(config)


def test_an_encoder_decoder_is_refused_from_its_config():
    with pytest.raises(
        ModelError, match="bart models cannot be distilled: they have a decoder; use an encoder such as"
    ):
        check_dimensions(AutoConfig.for_model("bart"))
