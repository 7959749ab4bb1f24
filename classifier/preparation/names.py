"""What a file or a folder is called, by an unknown system, and may be called on every system."""

import contextlib
import re
import unicodedata
from collections.abc import Iterable

from classifier.cli import UserError

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
MAX_BYTES = 200  # of the 255 that Linux allows


def safe_name(name: str) -> str:
    """The nearest name that can be written anywhere: never empty, hidden, or a path."""
    name = unicodedata.normalize("NFC", name).encode("utf-8", "replace").decode("utf-8")
    name = FORBIDDEN.sub("_", name).strip().rstrip(". ")
    if len(name.encode()) > MAX_BYTES:
        stem, dot, ending = name.rpartition(".") if "." in name[-10:] else (name, "", "")
        name = stem.encode()[: MAX_BYTES - 20].decode("utf-8", "ignore") + dot + ending
    return "_" + name if not name or name.startswith(".") or DEVICES.match(name) else name


def class_folders(labels: Iterable[str]) -> dict[str, str]:
    """The folder's name for each class.

    Raises:
        UserError: where two classes would share a folder, on Windows and macOS at least.
    """
    owners: dict[str, str] = {}
    for label in sorted(labels):
        other = owners.setdefault(safe_name(label).casefold(), label)
        if other != label:
            raise UserError(
                f"classes '{other}' and '{label}' would share the folder '{safe_name(label)}' on Windows and macOS: "
                "rename one of them in the source"
            )
    return {label: safe_name(label) for label in owners.values()}


def encoding_of(raw: bytes) -> str:
    """The encoding of names and texts that do not tell it: "utf-8", "gb18030" (Chinese Windows), or "cp437" (DOS).

    The more text at once the surer: a short GBK name can be valid UTF-8, hundreds cannot. The commonest case of it is
    told apart: 猫 in GBK reads è as UTF-8, so letters of two bytes that always stand alone are taken for Chinese.
    """
    for encoding in ("utf-8", "gb18030", "cp437"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    words = re.findall(r"[A-Za-z]*[^\x00-\x7f]+[A-Za-z]*", text)
    if encoding == "utf-8" and words and all(len(word) == 1 and word < "\u0800" for word in words):
        with contextlib.suppress(UnicodeDecodeError):
            raw.decode("gb2312")
            return "gb18030"
    return encoding
