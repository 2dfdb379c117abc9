"""infer.py end to end: a small model whose language model is set so that it really writes [SEG] groups."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import infer as script
from model.answering import whole_groups
from model.checkpoints.save import save_model
from model.inputs import images
from model.inputs.images import frame_logits, read_image, write_image
from model.language.tokens import EOS_ID, SEG_TOKENS, PixTokenizer
from model.masks import PREDICTED, paint_mask
from model.pixdlm import PixDLMForCausalLM, load_model
from model.presets import mini_config
from model.segmenter import PixDLM
from tests.permissions import refused
from tests.training import CHECKOUT, Server
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.evaluation.predict import fixed_passes
from utils.runtime.errors import run_main

QUESTION = "Which car is red?"
GROUP = " ".join(SEG_TOKENS)


def say(model: PixDLMForCausalLM, chain: list[int]) -> None:
    """Set embeddings and output so that each token of the chain is followed by the next one, for certain.

    The layers add nothing, so that a position knows its own token alone.
    """
    llama = model.language_model
    with torch.no_grad():
        for layer in llama.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        llama.lm_head.weight.zero_()
        for place, (token, following) in enumerate(zip(chain, chain[1:], strict=False)):
            llama.model.embed_tokens.weight[token] = torch.eye(llama.config.hidden_size)[place]
            llama.lm_head.weight[following] += 10 * torch.eye(llama.config.hidden_size)[place]


@pytest.fixture(scope="module")
def make_model(tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Writes a model folder that answers with one group and stops, or with groups without end."""

    def make(infinite_batches: bool = False) -> Path:
        tokenizer = PixTokenizer(tokenizer_file, system="")
        torch.manual_seed(1)  # with this seed its masks cover a part of a frame
        model = PixDLMForCausalLM(mini_config(tokenizer.pieces.vocab_size()))
        asked = tokenizer.prompt(QUESTION, answered=False).ids[-1]
        say(model, [asked, *tokenizer.seg_ids, tokenizer.seg_ids[0] if infinite_batches else EOS_ID])
        folder = tmp_path_factory.mktemp("model") / "best"
        save_model(folder, model, tokenizer, model.state_dict(), {})
        return folder

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path]) -> Path:
    """A model folder; its answer to everything is one [SEG] group."""
    return make_model()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of the same stem: a wide JPEG, and a tall grey PNG with transparency."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    for folder in ("a", "b c"):
        (tmp_path / folder).mkdir()
    Image.fromarray(noise).resize((120, 80)).save(tmp_path / "a/x.jpg")
    Image.fromarray(noise[..., :2], mode="LA").save(tmp_path / "b c/x.png")
    return [tmp_path / "a/x.jpg", tmp_path / "b c/x.png"]


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    """The script sets up the root logger, which here it shares with the other tests; one thread is enough."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level
    torch.set_num_threads(1)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    torch.set_num_threads(threads)


@pytest.fixture
def ask(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs infer.py in this process on the CPU, with JSON to stdout; gives status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        given = ["--model", model, "--out", tmp_path / "out", "--device", "cpu", "--json", "-"]
        if "--ask" not in arguments:
            given += ["--ask", QUESTION]
        monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, given), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_main(script.main)
        return (ended.value.code, *capsys.readouterr())

    return run


def answers(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text().splitlines()]


def written(monkeypatch: pytest.MonkeyPatch, make: Callable[[PixTokenizer], list[int]], model: Path) -> None:
    """Let the model have written what `make` gives."""
    ids = make(load_model(model)[1])
    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", lambda self, batch, *given: [ids])


def test_each_picture_gets_a_mask_an_overlay_and_a_line(model: Path, pictures: list[Path], tmp_path: Path) -> None:
    # as in the README: pictures before and after options, in a process of its own
    out = tmp_path / "out"
    command = [sys.executable, "infer.py", "--model", model, pictures[0], "--ask", QUESTION, "--out", out]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [*map(str, command), str(pictures[1])], cwd=CHECKOUT, env=environ, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    lines = answers(tmp_path)
    share = f"{100 * lines[0]['area_fraction']:.2f} % of it, confidence {lines[0]['confidence']:.2f}"
    assert ended.stdout.splitlines()[0] == f"{pictures[0]}: 1 mask, {share}  ->  x.mask.png"
    assert "2 answered, 0 failed, written to" in ended.stderr
    assert [line["picture"] for line in lines] == [str(path) for path in pictures]
    assert [line["mask"] for line in lines] == ["x.mask.png", "x-2.mask.png"]
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["answers.jsonl", "x-2.mask.png", "x-2.overlay.jpg", "x.mask.png", "x.overlay.jpg"]
    for line, picture in zip(lines, pictures, strict=True):
        frame = read_image(picture)
        with Image.open(tmp_path / "out" / line["mask"]) as stored:
            assert stored.mode == "L"
            mask = np.asarray(stored)
        assert mask.shape == frame.shape[:2] and set(np.unique(mask)) == {0, 255}
        assert (coco.decode(line["rle"]) * 255 == mask).all()
        overlay = read_image(tmp_path / "out" / line["mask"].replace("mask.png", "overlay.jpg"))
        write_image(tmp_path / "painted.jpg", paint_mask(frame, (mask > 0).astype(np.uint8), PREDICTED))
        assert np.array_equal(overlay, read_image(tmp_path / "painted.jpg")) and not np.array_equal(overlay, frame)
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        size = [columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert line["box"] == [columns[0], rows[0], *size]
        assert line["area"] == (mask > 0).sum() and line["area_fraction"] == pytest.approx((mask > 0).mean())
        assert line["question"] == QUESTION and line["text"] == GROUP
        assert 0.5 < line["confidence"] < 1
        (only,) = line["masks"]
        polygons = only.pop("polygons")
        assert (coco.decode(coco.merge(coco.frPyObjects(polygons, *mask.shape))) * 255 == mask).all()
        assert only == {key: line[key] for key in ("box", "area", "confidence", "rle")}
        assert (line["height"], line["width"]) == mask.shape and line["model"] == str(model) and line["seconds"] > 0


def test_a_picture_is_encoded_once(ask: Callable, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its answer is generated first and then stands in a prompt."""
    encode, encoded = PixDLMForCausalLM.encode_images, []
    monkeypatch.setattr(
        PixDLMForCausalLM, "encode_images", lambda self, batch: encoded.extend(batch.clip_pixels) or encode(self, batch)
    )
    assert ask(*pictures)[0] == 0
    assert len(encoded) == len(pictures)


def test_a_picture_is_decoded_once(ask: Callable, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the networks and the overlay together."""
    decode, decoded = images.decoded, []
    monkeypatch.setattr(images, "decoded", lambda *picture: decoded.append(1) or decode(*picture))
    assert ask(*pictures)[0] == 0
    assert len(decoded) == len(pictures)


@pytest.mark.parametrize(("earlier", "name"), [(0, "x-2.overlay.jpg"), (100_000, "answers.jsonl")])
def test_a_full_disk_is_told_and_earlier_lines_stay(
    ask: Callable, pictures: list[Path], tmp_path: Path, earlier: int, name: str
) -> None:
    """A limit on the size of files stands in for it: beyond it is the overlay, not the mask, or lines behind others."""
    assert ask(pictures[0])[0] == 0
    answers = tmp_path / "out/answers.jsonl"
    before = answers.read_text() + " " * earlier
    answers.write_text(before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10 if earlier else 2000, limits[1]))
    try:
        status, _, stderr = ask(pictures[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 2 and "Traceback" not in stderr
    assert f"{tmp_path / 'out' / name}: not written, and nothing half-written is left" in stderr
    assert answers.read_text() == before
    assert not list((tmp_path / "out").glob("x-2*"))  # no mask without a line


def test_the_mask_is_that_of_the_forced_answer(
    ask: Callable, model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    assert ask(pictures[0])[0] == 0
    loaded, tokenizer = load_model(model)
    height, width = read_image(pictures[0]).shape[:2]
    target = ((0.0, 0.0, 9.0, 0.0, 9.0, 9.0),)
    sample = Sample(pictures[0], QUESTION, None, (target,), height, width, "test", "x", 0)
    batch = Collator(loaded.config, tokenizer)([sample])
    with torch.inference_mode():
        (logits,) = loaded(batch).mask_logits
    forced = (frame_logits(logits, batch.geometries[0], loaded.config)[0] > 0).numpy()
    (line,) = answers(tmp_path)
    assert (coco.decode(line["rle"]) == forced).all() and 0 < forced.mean() < 1


def test_groups_without_end_are_cut_and_a_broken_one_is_left_out(
    ask: Callable, make_model: Callable[..., Path], pictures: list[Path], tmp_path: Path
) -> None:
    assert ask(pictures[0], "--model", make_model(infinite_batches=True), "--max-new-tokens", "20")[0] == 0
    (line,) = answers(tmp_path)
    assert line["text"] == f"{GROUP} {GROUP} [SEG0] [SEG1]"
    assert len(line["masks"]) == 2
    union = np.maximum(*(coco.decode(one["rle"]) for one in line["masks"]))
    assert (coco.decode(line["rle"]) == union).all() and line["area"] == union.sum()


def test_only_whole_groups_are_read_wherever_they_stand(
    ask: Callable, model: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(tokenizer: PixTokenizer) -> list[int]:
        seg, word = tokenizer.seg_ids, tokenizer.pieces.encode("car")
        return [*seg[:2], *word, *seg, *seg[3:5], *word, *seg, seg[0]]

    written(monkeypatch, broken, model)
    tokenizer = load_model(model)[1]
    seg, word = tokenizer.seg_ids, tokenizer.pieces.encode("car")
    assert whole_groups(tokenizer, broken(tokenizer)) == [*word, *seg, *word, *seg]
    assert ask(pictures[0])[0] == 0
    (line,) = answers(tmp_path)
    assert len(line["masks"]) == 2 and line["text"].startswith("[SEG0] [SEG1] car [SEG0]")


def test_an_answer_without_a_group_is_an_empty_mask_and_a_warning(
    ask: Callable, model: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(monkeypatch, lambda tokenizer: tokenizer.pieces.encode("the red car"), model)
    assert ask(pictures[1], "--json", "-")[0] == 0
    (line,) = answers(tmp_path)
    expected = {"masks": [], "box": None, "area": 0, "area_fraction": 0.0, "confidence": 0.0, "text": "the red car"}
    assert expected.items() <= line.items() and not coco.decode(line["rle"]).any()
    mask = np.asarray(Image.open(tmp_path / "out/x.mask.png"))
    assert mask.shape == (90, 60) and not mask.any()


def test_lines_are_appended_to_those_of_earlier_runs_and_name_masks_of_their_own(
    ask: Callable, pictures: list[Path], tmp_path: Path
) -> None:
    for question in ("One?", "Two?"):
        assert ask(pictures[0], "--ask", question)[0] == 0
    (tmp_path / "out/x-2.mask.png").unlink()  # a line names it all the same
    (tmp_path / "out/x-2.overlay.jpg").unlink()
    (tmp_path / "out/x-3.overlay.jpg").write_text("mine")
    with open(tmp_path / "out/answers.jsonl", "a") as lines:
        lines.write('\n{"cut\n[1]\n{"mask": 3}\nnot ended')
    assert ask(*pictures, "--ask", "Three?")[0] == 0
    text = (tmp_path / "out/answers.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in text if line.startswith('{"picture"')]
    assert [line["question"] for line in lines] == ["One?", "Two?", "Three?", "Three?"]
    assert [line["mask"] for line in lines] == [f"{x}.mask.png" for x in ("x", "x-2", "x-4", "x-5")]
    assert [line["overlay"] for line in lines] == [f"{x}.overlay.jpg" for x in ("x", "x-2", "x-4", "x-5")]
    for line in (lines[0], *lines[2:]):
        mask = np.asarray(Image.open(tmp_path / "out" / line["mask"]))
        assert (coco.decode(line["rle"]) * 255 == mask).all()
    assert (tmp_path / "out/x-3.overlay.jpg").read_text() == "mine"


def test_processes_that_answer_into_one_folder_do_not_mix(server: Server, tmp_path: Path) -> None:
    """Each writes twenty answers about a picture, in another size that tells whose a mask is."""
    code = """
import os, sys
from pathlib import Path
import numpy as np
from model.inputs.images import encoded_image
from utils.inference.results import write_answer
side = 3 + int(os.environ["RANK"])
files = {"mask": encoded_image(".png", np.zeros((side, side), np.uint8))}
files["overlay"] = encoded_image(".jpg", np.zeros((side, side, 3), np.uint8))
taken = set()
for _ in range(20):
    write_answer(Path(sys.argv[1]), "x", {"side": side}, files, taken)
"""
    (tmp_path / "out").mkdir()
    server.run_code(code, tmp_path / "out", world=2)
    lines = answers(tmp_path)
    assert len(lines) == 40 and len({line["mask"] for line in lines}) == 40
    for line in lines:
        for name in (line["mask"], line["overlay"]):
            with Image.open(tmp_path / "out" / name) as stored:
                assert stored.size == (line["side"], line["side"])
    assert len(list((tmp_path / "out").iterdir())) == 81


@pytest.mark.parametrize("letter", ["n", "ä", "語"])
def test_a_picture_whose_name_is_near_the_limit(
    ask: Callable, pictures: list[Path], tmp_path: Path, letter: str
) -> None:
    picture = pictures[0].rename(tmp_path / f"{letter * (251 // len(letter.encode()))}.jpg")
    for _ in range(2):
        assert ask(picture)[0] == 0
    first, second = answers(tmp_path)
    names = [line[key] for line in (first, second) for key in ("mask", "overlay")]
    assert len(set(names)) == 4 and {*names, "answers.jsonl"} == {one.name for one in (tmp_path / "out").iterdir()}
    assert first["mask"].startswith(letter * 10) and second["mask"].endswith("-2.mask.png")


def test_a_picture_that_may_not_be_read_is_told_as_that(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    for file in (pictures[0], pictures[0].parent):
        with refused(file):
            status, _, stderr = ask(pictures[0])
        assert status == 2 and f"{pictures[0]}: permission denied" in stderr and "damaged" not in stderr


@pytest.mark.parametrize("fault", ["missing", "truncated", "text"])
def test_a_picture_that_cannot_be_read_is_named_and_everything_else_is_done(
    ask: Callable, pictures: list[Path], tmp_path: Path, fault: str
) -> None:
    bad = tmp_path / "bad.jpg"
    if fault != "missing":
        bad.write_bytes(b"no picture" if fault == "text" else pictures[0].read_bytes()[:-300])
    status, stdout, stderr = ask(pictures[0], bad, pictures[1])
    assert status == 1 and stderr.count(f"{bad}: ") == 2 and "Traceback" not in stderr
    assert "2 answered, 1 failed" in stderr
    assert [line["picture"] for line in answers(tmp_path)] == [str(path) for path in pictures]
    assert (tmp_path / "out/x-2.mask.png").exists() and not list((tmp_path / "out").glob("bad*"))
    (failed,) = map(json.loads, (tmp_path / "out/failed.jsonl").read_text().splitlines())
    assert (failed["picture"], failed["status"]) == (str(bad), "failed") and failed["error"]
    assert [json.loads(line)["status"] for line in stdout.splitlines()] == ["ok", "failed", "ok"]
    assert ask(pictures[0])[0] == 0 and not (tmp_path / "out/failed.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ask", "  "], "--ask is empty"),
        (["--ask", "the [SEG0] car"], "the question contains the special token '[SEG0]'"),
        (["--ask", "car " * 2000], "shorten the question"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--precision", "int8"], "--precision is 'int8'"),
        (["--model", "/no/model"], "/no/model: no such model folder"),
    ],
)
def test_mistakes_are_told(ask: Callable, pictures: list[Path], arguments: list[str], message: str) -> None:
    status, stdout, stderr = ask(pictures[0], *arguments)
    assert status == 2 and message in stderr and "Traceback" not in stderr and stdout == ""


def test_without_pictures_or_a_folder_to_write_to(ask: Callable, pictures: list[Path]) -> None:
    status, _, stderr = ask()
    assert status == 2 and "pictures" in stderr
    status, _, stderr = ask(pictures[0], "--out", pictures[0])
    assert status == 2 and f"--out {pictures[0]}: cannot be made a folder" in stderr


def test_logits_that_are_no_numbers_are_told(
    ask: Callable, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = PixDLMForCausalLM.forward

    def spoilt(self: PixDLMForCausalLM, batch: object, **given: object) -> object:
        output = forward(self, batch, **given)
        output.mask_logits[0][0, 0, 0] = float("nan")
        return output

    monkeypatch.setattr(PixDLMForCausalLM, "forward", spoilt)
    status, _, stderr = ask(pictures[0])
    assert status == 2 and f"{pictures[0]}: the mask's logits are not finite" in stderr
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["failed.jsonl"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("caf\udce9?", "--ask: the question holds U.DCE9.* the byte 0xE9 that is no UTF-8"),
        ("\u200b\u200b", "--ask: the question shows nothing"),
        ("Which <image>?", "--ask: the question contains the special token '<image>'"),
        ("why " * 2000, "--ask: its prompt has .* tokens, .* fit beside the image; shorten the question"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_before_a_picture_is_read(
    ask: Callable, tmp_path: Path, question: str, message: str
) -> None:
    status, _, stderr = ask(tmp_path / "none.jpg", "--ask", question)
    assert status == 2 and re.search(message, stderr) and "none.jpg" not in stderr


def test_a_picture_whose_name_is_no_utf8_is_answered(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "caf\udce9.jpg"
    odd.write_bytes(pictures[0].read_bytes())
    status, stdout, _ = ask(odd, pictures[0])
    assert status == 0
    first, second = lines = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_bytes().splitlines()]
    assert first["picture"].endswith(r"/caf\xe9.jpg") and first["mask"] == r"caf\xe9.mask.png"
    assert all((tmp_path / "out" / line["mask"]).is_file() for line in lines) and first["area"] == second["area"]
    assert [json.loads(line) for line in stdout.splitlines()] == lines


def test_masks_lie_in_the_picture_as_viewers_show_it(ask: Callable, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "plain.png")
    for orientation, method in ((3, Image.Transpose.ROTATE_180), (8, Image.Transpose.ROTATE_270)):
        exif = Image.Exif()
        exif[0x0112] = orientation  # stored the other way round, and shown as the plain one
        Image.fromarray(noise).transpose(method).save(tmp_path / f"tagged{orientation}.png", exif=exif)
    assert ask(*(tmp_path / f"{name}.png" for name in ("plain", "tagged3", "tagged8")))[0] == 0
    plain, *tagged = answers(tmp_path)
    assert all(line["rle"] == plain["rle"] and line["box"] == plain["box"] for line in tagged)
    for name in ("tagged3", "tagged8"):
        for ending in ("mask.png", "overlay.jpg"):
            found, expected = (Image.open(tmp_path / f"out/{one}.{ending}") for one in (name, "plain"))
            assert not found.getexif().get(0x0112) and np.array_equal(np.asarray(found), np.asarray(expected))


# Folders, lists of questions, pipes, and going on


def make_folder(folder: Path, count: int, broken: int) -> list[Path]:
    """So many pictures, of which the last ones are broken, each in another way."""
    folder.mkdir(parents=True)
    faults = (b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0cut", b"GIF89a")
    for number in range(count):
        path = folder / f"{number:02d}.png"
        if number >= count - broken:
            path.write_bytes(faults[number % len(faults)])
        else:
            noise = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    return sorted(folder.iterdir())


def test_a_folder_of_fifty_of_which_five_are_broken(ask: Callable, tmp_path: Path) -> None:
    paths = make_folder(tmp_path / "in", 50, 5)
    status, stdout, stderr = ask(tmp_path / "in")
    assert status == 1 and "45 answered, 5 failed" in stderr and "Traceback" not in stderr
    assert [line["picture"] for line in answers(tmp_path)] == list(map(str, paths[:45]))
    failed = [json.loads(line)["picture"] for line in (tmp_path / "out/failed.jsonl").read_text().splitlines()]
    assert failed == list(map(str, paths[45:])) and len(stdout.splitlines()) == 50
    assert len(list((tmp_path / "out").glob("*.mask.png"))) == len(list((tmp_path / "out").glob("*.overlay.jpg"))) == 45


def test_only_broken_pictures_are_status_2(ask: Callable, tmp_path: Path) -> None:
    make_folder(tmp_path / "in", 2, 2)
    assert ask(tmp_path / "in")[0] == 2 and not (tmp_path / "out/answers.jsonl").exists()


def test_a_list_of_questions_and_several_about_one_picture(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    lines = [("a/x.jpg", "One?"), ("b c/x.png", "Two?"), ("a/x.jpg", "Three?"), ("none.jpg", "Four?")]
    file = tmp_path / "list.jsonl"
    file.write_text("".join(json.dumps({"image": a, "question": q, "id": q[0]}) + "\n" for a, q in lines) + "{}\n")
    status, stdout, _ = ask(file, "--out", tmp_path / "out")
    assert status == 1
    found = [(line["id"], line["question"], Path(line["picture"]).name) for line in answers(tmp_path)]
    assert found == [("O", "One?", "x.jpg"), ("T", "Three?", "x.jpg"), ("T", "Two?", "x.png")]
    failed = [json.loads(line) for line in stdout.splitlines() if '"failed"' in line]
    assert [one["picture"] for one in failed] == [f"{file}:5", str(tmp_path / "none.jpg")]


def test_resume_leaves_out_what_is_answered(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    assert ask(pictures[0], "--ask", "One?")[0] == 0
    before = (tmp_path / "out/answers.jsonl").read_text()
    status, stdout, _ = ask(*pictures, "--ask", "One?", "--ask", "Two?", "--resume")
    assert status == 0 and len(stdout.splitlines()) == 3
    assert (tmp_path / "out/answers.jsonl").read_text().startswith(before)
    asked = [(Path(line["picture"]).name, line["question"]) for line in answers(tmp_path)]
    assert sorted(asked) == sorted((name, one) for name in ("x.jpg", "x.png") for one in ("One?", "Two?"))
    assert ask(*pictures, "--ask", "One?", "--ask", "Two?", "--resume")[:2] == (0, "")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"bad")
    assert ask("--resume", bad, *pictures, "--ask", "One?")[0] == 1  # some of many failed, answered earlier or now


CLOSED_PIPE = """
import os
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
"""


def test_lines_to_a_pipe_that_is_closed(server: Server, model: Path, tmp_path: Path) -> None:
    """Without files the rest is not asked, and the cure told; with files it is."""
    make_folder(tmp_path / "in", 6, 0)
    asked = [tmp_path / "in", "--ask", QUESTION, "--json", "-", "--model", model, "--batch-size", "1"]
    status, said = server.run("infer", asked, CLOSED_PIPE)
    assert status == 2 and "Traceback" not in said
    assert "what reads the output has closed it" in said and "--out DIR" in said
    status, said = server.run("infer", [*asked, "--out", tmp_path / "out"], CLOSED_PIPE)
    assert status == 2 and "Traceback" not in said
    assert len(answers(tmp_path)) == 6 and "6 answered, 0 failed" in said


def test_without_files_nothing_is_left_on_the_disk(
    server: Server, model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    asked = [pictures[0], "--ask", QUESTION, "--json", "-", "--model", model]
    (ended,) = server.processes("infer", asked, before=f"import os\nos.chdir({str(tmp_path)!r})")
    assert ended.status == 0 and json.loads(ended.stdout)["area"] > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_segment_gives_what_eval_gives_to_the_last_bit_at_equal_batch(
    server: Server, model: Path, data: Path, tmp_path: Path
) -> None:
    """A pass of eval.py is one list of pictures and questions."""
    given = ["--model", model, "--data", data, "--protocol", "generate", "--out", tmp_path / "eval"]
    status, said = server.run("eval", [*given, "--device", "cpu"])
    assert status == 0, said[-2000:]
    records = list(map(json.loads, (tmp_path / "eval/predictions.jsonl").read_text().splitlines()))[1:]
    samples = load_dataset(data, "test")
    (one_pass,) = fixed_passes(samples, 8)
    asked = [samples[i] for i in one_pass]
    pixdlm = PixDLM.from_pretrained(model, "cpu")
    answers = pixdlm.segment([one.image_path for one in asked], [one.question for one in asked])
    expected = {record["id"]: record for record in records}
    for sample, answer in zip(asked, answers, strict=True):
        record = expected[sample.key]
        assert answer.rles == record["masks"] and [float(score) for score in answer.scores] == record["scores"]
        assert answer.text == record["text"]


def test_a_coco_file_read_back_scores_as_the_answers_do(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    """Each annotation has an IoU of 1 with its line's mask, by pycocotools."""
    file = tmp_path / "coco.json"
    assert ask(*pictures, "--ask", "One?", "--ask", "Two?", "--coco", file)[0] == 0
    found = COCO(str(file))
    names = {image["id"]: image["file_name"] for image in found.imgs.values()}
    questions = {category["id"]: category["question"] for category in found.cats.values()}
    lines = {(Path(line["picture"]).name, line["question"]): line for line in answers(tmp_path)}
    assert len(found.anns) == len(lines) == 4 and all(set(one["segmentation"][0]) for one in found.anns.values())
    for annotation in found.anns.values():
        line = lines[Path(names[annotation["image_id"]]).name, questions[annotation["category_id"]]]
        assert coco.iou([found.annToRLE(annotation)], [line["masks"][0]["rle"]], [0])[0][0] == 1
        assert (annotation["score"], annotation["bbox"]) == (line["confidence"], line["box"])


def test_a_geotiff_gives_geojson_where_it_lies(ask: Callable, pictures: list[Path], tmp_path: Path) -> None:
    """In degrees of the equator, where areas are known: a pixel is 1e-5 degrees, 1.1132 x 1.1057 metres."""
    rasterio = pytest.importorskip("rasterio")
    pixels = read_image(pictures[0])
    size = {"height": pixels.shape[0], "width": pixels.shape[1]}
    place = rasterio.transform.from_origin(7.0, 0.0005, 1e-5, 1e-5)
    path = tmp_path / "ortho.tif"
    with rasterio.open(path, "w", "GTiff", **size, count=3, dtype="uint8", crs="EPSG:4326", transform=place) as file:
        file.write(pixels.transpose(2, 0, 1))
    assert ask(path, pictures[0])[0] == 0
    line, plain = answers(tmp_path)
    assert line["geojson"] == "ortho.geojson" and "geojson" not in plain
    (feature,) = json.loads((tmp_path / "out/ortho.geojson").read_text())["features"]
    left, top, width, height = line["box"]
    corners = np.concatenate([np.array(ring) for polygon in feature["geometry"]["coordinates"] for ring in polygon])
    assert corners.min(axis=0) == pytest.approx([7 + 1e-5 * left, 0.0005 - 1e-5 * (top + height)], abs=1e-8)
    assert corners.max(axis=0) == pytest.approx([7 + 1e-5 * (left + width), 0.0005 - 1e-5 * top], abs=1e-8)
    assert feature["properties"]["area_m2"] == pytest.approx(line["area"] * 1.11319 * 1.10574, rel=1e-3)
    assert feature["properties"]["question"] == QUESTION
