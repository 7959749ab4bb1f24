"""How to cite weights and their network, as BibTeX."""

import re
from typing import NamedTuple

from classifier.checkpoint import Checkpoint
from webui.choices import score_of


class Paper(NamedTuple):
    """Where a family of networks was published."""

    name: str  # of the family, as its authors write it
    key: str
    authors: str
    title: str
    place: str
    year: int
    arxiv: str = ""


# how names in zoo.MODELS begin -> paper
PAPERS = {
    "resnet": Paper(
        "ResNet", "he2016resnet",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Deep Residual Learning for Image Recognition",
        "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)", 2016, "1512.03385",
    ),
    "alexnet": Paper(
        "AlexNet", "krizhevsky2012alexnet",
        "Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.",
        "ImageNet Classification with Deep Convolutional Neural Networks",
        "Advances in Neural Information Processing Systems (NIPS)", 2012,
    ),
    "vgg": Paper(
        "VGG", "simonyan2015vgg",
        "Simonyan, Karen and Zisserman, Andrew",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "International Conference on Learning Representations (ICLR)", 2015, "1409.1556",
    ),
    "googlenet": Paper(
        "GoogLeNet", "szegedy2015googlenet",
        "Szegedy, Christian and Liu, Wei and Jia, Yangqing and Sermanet, Pierre and Reed, Scott and Anguelov, Dragomir "
        "and Erhan, Dumitru and Vanhoucke, Vincent and Rabinovich, Andrew",
        "Going Deeper with Convolutions",
        "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)", 2015, "1409.4842",
    ),
    "densenet": Paper(
        "DenseNet", "huang2017densenet",
        "Huang, Gao and Liu, Zhuang and van der Maaten, Laurens and Weinberger, Kilian Q.",
        "Densely Connected Convolutional Networks",
        "IEEE Conference on Computer Vision and Pattern Recognition (CVPR)", 2017, "1608.06993",
    ),
}  # fmt: skip
SPECIAL = str.maketrans(
    {"\\": r"\textbackslash ", "{": "", "}": "", "~": r"\textasciitilde ", "^": r"\textasciicircum ", "\n": " "}
    | {character: f"\\{character}" for character in "&%$#_"}
)


def network_name(model: str) -> str:
    """resnet18 -> ResNet-18, vgg16_bn -> VGG-16 BN; a name that is not in zoo.MODELS stays."""
    family = _family(model)
    number, *more = model.removeprefix(family).upper().split("_")
    return " ".join([PAPERS[family].name + f"-{number}" * bool(number), *more]) if family else model


def bibtex(checkpoint: Checkpoint) -> str:
    """An entry for the weights, without authors, which a .pth does not know, and one for their network's paper."""
    name = checkpoint.path.stem if checkpoint.path else checkpoint.model
    classes = ", ".join(checkpoint.classes[:5]) + (", ..." if len(checkpoint.classes) > 5 else "")
    notes = []
    if isinstance(checkpoint.data.get("train"), int):
        notes.append(f"{checkpoint.data['train']:,} training images")
    if found := score_of(checkpoint.scores):
        part, accuracy, count = found
        notes.append(f"{accuracy:.1%} of {count:,} {'test' if part == 'test' else 'validation'} images right")
    key = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-") or "weights"
    fields = {"title": f"{{{_tex(f'{name}: {network_name(checkpoint.model)} for {classes}')}}}"}
    if year := re.match(r"\d{4}", checkpoint.created):
        fields["year"] = year[0]
    if notes:
        fields["note"] = _tex("; ".join(notes))
    entries = [_entry("misc", key, fields)]
    if family := _family(checkpoint.model):
        paper = PAPERS[family]
        fields = {"author": paper.authors, "title": f"{{{paper.title}}}", "booktitle": paper.place, "year": paper.year}
        arxiv = {"eprint": paper.arxiv, "archiveprefix": "arXiv"} if paper.arxiv else {}
        entries.append(_entry("inproceedings", paper.key, fields | arxiv))
    return "\n\n".join(entries)


def _family(model: str) -> str:
    return next((family for family in PAPERS if model.startswith(family)), "")


def _entry(kind: str, key: str, fields: dict) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _tex(text: str) -> str:
    return text.translate(SPECIAL)
