"""Files on the hub: pinned revisions, sizes and checksums, and where each file goes.

`utils.download.fetch` fetches them, `utils.download.prepare_drseg` checks the data
set against them. All three import the standard library only, so that they run before anything is installed.
Sizes and checksums were reported by people who had the files; a file that is not pinned here is
checked against the hash that the hub reports for that revision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.runtime.errors import UserError
from utils.runtime.files import CHECKOUT
from utils.runtime.paths import has_content, is_file, is_folder

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository on the hub.

    Args:
        name: of the local file, in its collection's folder.
        paths: possible paths in the repository, likeliest first; `name` by default.
        size: its bytes, where known.
        sha256: of its content, where known.
        optional: skip it where the repository has no such file.
    """

    name: str
    paths: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    optional: bool = False

    @property
    def candidates(self) -> tuple[str, ...]:
        """Possible paths in the repository, likeliest first."""
        return self.paths or (self.name,)


@dataclass(frozen=True)
class Collection:
    """Files of one repository at one revision.

    Args:
        name: what `--what` calls it.
        repository: owner and name on the hub.
        revision: the commit, in full.
        folder: where the files go, relative to the checkout.
        files: to fetch.
        purpose: in a few words.
        total: bytes of all files without a pinned size together, where known.
        is_dataset: whether the repository is a data set (its address differs).
    """

    name: str
    repository: str
    revision: str
    folder: str
    files: tuple[RemoteFile, ...]
    purpose: str
    total: int | None = None
    is_dataset: bool = False

    @property
    def page(self) -> str:
        """The repository's address."""
        return f"{HUB}/{'datasets/' * self.is_dataset}{self.repository}"

    def url(self, path: str, endpoint: str = HUB) -> str:
        """The address of the file at `path` in the repository."""
        return f"{self.page.replace(HUB, endpoint, 1)}/resolve/{self.revision}/{path}"

    def targets(self, root: Path = CHECKOUT) -> list[Path]:
        """Paths of the required files under `root`."""
        return [root / self.folder / file.name for file in self.files if not file.optional]


def _pixdlm_settings(*names: str) -> tuple[RemoteFile, ...]:
    required = ("config.json", "tokenizer.model")
    return tuple(
        RemoteFile(name, (f"pretrained/pixdlm-7b/{name}", name), optional=name not in required) for name in names
    )


CLIP = Collection(
    "clip",
    "openai/clip-vit-large-patch14",
    "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "PixDLM/weights/clip",
    (
        RemoteFile(
            "model.safetensors",
            size=1_710_540_580,
            sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        ),
        RemoteFile("config.json"),
        RemoteFile("preprocessor_config.json"),
    ),
    "the semantic path (CLIP ViT-L/14)",
)
SAM2 = Collection(
    "sam2",
    "facebook/sam2.1-hiera-large",
    "665f8e2ad61cf5f53d65644ff27c8ee525124610",
    "PixDLM/weights/sam2",
    (
        RemoteFile(
            "sam2.1_hiera_large.pt",
            size=898_083_611,
            sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        ),
    ),
    "the pixel path (SAM2.1 Hiera-L)",
)
LLAVA = Collection(
    "llava",
    "liuhaotian/llava-v1.6-vicuna-7b",
    "deae57a8c0ccb0da4c2661cc1891cc9d06503d11",
    "PixDLM/weights/llava",
    (
        *(RemoteFile(f"model-0000{i}-of-00003.safetensors") for i in (1, 2, 3)),
        RemoteFile("model.safetensors.index.json"),
        RemoteFile("config.json"),
        RemoteFile("tokenizer.model"),
    ),
    "the language model that training starts from (Vicuna 7B)",
    total=14_125_909_456,  # of the three shards; their checksums are not known here
)
PIXDLM = Collection(
    "pixdlm",
    "WhynotHug/PixDLM",
    "f40fa586e28f644d5db19e6d8905f626a6b7fd13",
    "PixDLM/weights/pixdlm",
    (
        RemoteFile(
            "pytorch_model.bin",
            ("pytorch_model.bin", "pretrained/pixdlm-7b/pytorch_model.bin"),
            size=13_611_289_441,
            sha256="fc3f8ec17e57c17068be371c33bbe06b156be779f0087a5bb63d9f658729b220",
        ),
        *_pixdlm_settings(
            "config.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "generation_config.json",
        ),
    ),
    "the published checkpoint, without its vision towers and fusion",
)
DRSEG = Collection(
    "drseg",
    "WhynotHug/DRSeg",
    "2b143f9a0721b7b5dbba4dd9f0bed9a22ede444d",
    "data",
    (
        RemoteFile(
            "DRSeg.zip",
            size=2_641_097_515,
            sha256="1378bb70c789730fe38b7a3dd28f47f36c63c4e3bafb7e89367a6232e647317b",
        ),
    ),
    "the data set, as an archive that is laid out in data/DRSeg",
    is_dataset=True,
)

COLLECTIONS: dict[str, Collection] = {each.name: each for each in (CLIP, SAM2, LLAVA, PIXDLM, DRSEG)}
DRSEG_FOLDER = "data/DRSeg"  # where the archive is laid out, relative to the checkout
DRSEG_RECORDS = {"train": 2_999, "val": 2_000, "test": 5_001}


def require(names: Iterable[str], data: Path | None = None, root: Path = CHECKOUT) -> None:
    """Check that weights exist, and a data set.

    Args:
        names: collections whose files must lie under `root`.
        data: None, or a folder in DRSeg's layout that must be there.
        root: the checkout.

    Raises:
        UserError: something is missing; it lists each file with its source, and the command that gets them.
    """
    missing, lines = [], []
    for collection in (COLLECTIONS[name] for name in names):
        absent = [target for target in collection.targets(root) if not is_file(target)]
        if absent:
            missing.append(collection.name)
            lines += [f"  {collection.purpose}, from {collection.page}:", *(f"    {target}" for target in absent)]
    without_data = data is not None and not is_folder(data / "labels")
    if without_data:
        missing.append(DRSEG.name)
        lines += [f"  the data set (DRSeg, or another in its layout), from {DRSEG.page}:", f"    {data}/labels"]
        lines += [f"    {data}/CODrone"]
    if not missing:
        return
    lines.append(f"To get them: python -m utils.download --what {' '.join(missing)}")
    if without_data:
        lines += _data_notes(data, root / DRSEG_FOLDER)
    raise UserError("\n".join(["missing:", *lines, "`bash train.sh mini` needs none of this."]))


def _data_notes(data: Path, laid_out: Path) -> list[str]:
    """Further steps, where the download alone does not put the data set at `data`."""
    if data.resolve() != laid_out.resolve():
        return [f"which lays DRSeg out in {laid_out}: pass --data {laid_out}, or move it to {data}"]
    if has_content(data):
        return [f"after moving {data} away, which has content but no labels"]
    return []
