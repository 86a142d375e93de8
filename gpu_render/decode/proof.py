"""The proof table: what a device's codec was seen to decode as the CPU does, bit by bit, on a machine with that device.

``gpu-render prove`` writes it. A row holds for one kind of codestream, and for one codec on one kind of device with the
versions of all its libraries (``Backend.codec``): for any other, the CPU decodes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gpu_render.errors import StartupError

#: Least evidence of a row.
LEAST_COMPARED = 15
LEAST_DAMAGED = 20


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Kind(_Record):
    """What ways through a codec may depend on, as the codestream declares it. ``precision`` [bit]."""

    transfer_syntax_uid: str = Field(pattern=r"^[0-9.]{1,64}$")
    precision: int = Field(ge=1, le=16)
    signed: bool
    components: int = Field(ge=1, le=3)
    reversible: bool
    high_throughput: bool
    color_transform: bool

    def __str__(self) -> str:
        sign = "signed" if self.signed else "unsigned"
        colour = (", colour transform" if self.color_transform else ", colour") if self.components == 3 else ""
        return f"{self.transfer_syntax_uid.removeprefix('1.2.840.10008.1.2.4.')}: {self.precision} bit {sign}{colour}"


class Sample(_Record):
    """A small frame that is decoded at every start, and ``digest`` of the samples that the CPU gives."""

    rows: int = Field(ge=1, le=256)
    columns: int = Field(ge=1, le=256)
    codestream: Base64Bytes = Field(max_length=1 << 18)
    digest: str


class Row(_Record):
    """What was seen of one kind.

    ``compared``: whole frames; ``unequal``: of these, shown and not equal to the CPU's; ``largest_difference`` between
    samples of them; ``refused``: left to the CPU. ``damaged``: frames that were damaged on purpose; ``shown_damaged``:
    of these, shown though the CPU refuses them; ``unlike_damaged``: shown by both, and unlike (no decoder sees all
    damage, and what it makes of it is not defined). ``least_pixels``: from this size on the device is faster; None
    where it never was. ``most_pixels``, ``longest_side``: of the largest frames that were compared.
    """

    kind: Kind
    codec: str = Field(min_length=1)
    compared: int = Field(ge=0)
    unequal: int = Field(ge=0)
    largest_difference: int = Field(ge=0)
    refused: int = Field(ge=0)
    damaged: int = Field(ge=0)
    shown_damaged: int = Field(ge=0)
    unlike_damaged: int = Field(ge=0)
    least_pixels: int | None = Field(ge=0)
    most_pixels: int = Field(ge=0)
    longest_side: int = Field(ge=0)
    sample: Sample
    date: date

    @property
    def proven(self) -> bool:
        """Whether all that was seen is as the CPU has it, and enough of it was shown."""
        shown = self.compared - self.refused
        enough = shown >= LEAST_COMPARED and self.damaged >= LEAST_DAMAGED
        return enough and self.unequal == self.largest_difference == self.shown_damaged == 0


class ProvenRow(_Record):
    """What planning asks of a row."""

    kind: Kind
    least_pixels: int
    most_pixels: int
    longest_side: int
    sample: Sample

    def covers(self, rows: int, columns: int) -> bool:
        """Whether a frame of this size is large enough to be worth it, and no larger than what was compared."""
        in_reach = rows * columns <= self.most_pixels and max(rows, columns) <= self.longest_side
        return in_reach and rows * columns >= self.least_pixels


class ProofFile(_Record):
    """The file. ``note``: for people."""

    format: Literal[1]
    note: str = ""
    rows: tuple[Row, ...] = ()

    @model_validator(mode="after")
    def _says_each_thing_once(self) -> Self:
        """Otherwise a row that found a difference would stand beside one that did not."""
        if len({(row.kind, row.codec) for row in self.rows}) < len(self.rows):
            raise ValueError("two rows for one kind of codestream and one codec")
        return self


class ProofTable:
    """The rows of a file that hold for one codec: proven, and of kinds for which the device is faster at some size."""

    def __init__(self, rows: Iterable[ProvenRow] = ()) -> None:
        self._rows = {row.kind: row for row in rows}
        self.transfer_syntaxes = frozenset(kind.transfer_syntax_uid for kind in self._rows)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[ProvenRow]:
        return iter(self._rows.values())

    def find(self, kind: Kind) -> ProvenRow | None:
        """The row of a kind; None where it is not proven."""
        return self._rows.get(kind)

    @classmethod
    def of(cls, file: ProofFile, codec: str) -> "ProofTable":
        """What a file proves of a codec."""
        return cls(
            ProvenRow(
                kind=row.kind,
                least_pixels=row.least_pixels,
                most_pixels=row.most_pixels,
                longest_side=row.longest_side,
                sample=row.sample,
            )
            for row in file.rows
            if row.codec == codec and row.proven and row.least_pixels is not None
        )


def load_file(path: Path | None) -> ProofFile:
    """The file at ``path``, or the one that is shipped. Raises StartupError, saying what to do."""
    try:
        data = path.read_bytes() if path else resources.files("gpu_render.decode").joinpath("proof.json").read_bytes()
        return ProofFile.model_validate_json(data)
    except OSError as error:
        message = f"the proof table {path} cannot be read ({error.strerror}); gpu-render prove writes one"
        raise StartupError(message) from error
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        message = f"the proof table {path} is not one ({where}: {wrong['msg']}); gpu-render prove writes one"
        raise StartupError(message) from None


def digest(samples: npt.NDArray[np.generic]) -> str:
    """Of samples, their dtype and their shape."""
    state = hashlib.blake2b(f"{samples.dtype.str} {samples.shape} ".encode(), digest_size=16)
    state.update(np.ascontiguousarray(samples).tobytes())
    return state.hexdigest()
