"""Where frames come from: the Archive protocol and the records it lists. ``folder.py`` is the first archive."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from gpu_render.frame import EncodedFrame, Geometry, PixelLayout, Presentation
from gpu_render.reference import FrameRef


@dataclass(frozen=True, slots=True)
class StudyAttributes:
    """What names a study (PS3.3 C.7.1.1, C.7.2.1). Empty text where the file says nothing; ``patient_name`` keeps
    its ``^`` and ``=``; dates and times are DICOM's DA and TM."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    study_date: str
    study_time: str
    study_description: str
    accession_number: str


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """One series. Counts are those of all instances and of the frames that can be shown; ``thumbnail`` is the frame
    in its middle, None where nothing can be shown."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    instance_count: int
    frame_count: int
    thumbnail: FrameRef | None


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """One study with its series, in order of Series Number."""

    attributes: StudyAttributes
    series: tuple[SeriesRecord, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities in Study (0008,0061), sorted, each once."""
        return tuple(sorted({series.modality for series in self.series if series.modality}))

    @property
    def instance_count(self) -> int:
        """Instances of all its series."""
        return sum(series.instance_count for series in self.series)

    @property
    def frame_count(self) -> int:
        """Frames of all its series."""
        return sum(series.frame_count for series in self.series)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """Everything about one frame but its pixels.

    ``image_id`` is the stable number of its SOP Instance; ``slice_thickness`` in mm; ``version`` changes whenever
    the file that holds the frame does.
    """

    ref: FrameRef
    image_id: int
    number_of_frames: int
    instance_number: int | None
    slice_thickness: float | None
    sop_class_uid: str
    transfer_syntax_uid: str
    layout: PixelLayout
    presentation: Presentation
    geometry: Geometry
    version: str


@dataclass(frozen=True, slots=True)
class HiddenInstance:
    """An instance that cannot be shown, and why: no pixels, contradictory attributes ..."""

    sop_instance_uid: str
    sop_class_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeriesManifest:
    """All frames of a series in anatomical order: along the slice normal where every frame has a position and all
    have one orientation, else by Instance Number, then frame number."""

    study: StudyAttributes
    series: SeriesRecord
    frames: tuple[FrameRecord, ...]
    hidden: tuple[HiddenInstance, ...]


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One SOP Instance as a whole. ``number_of_frames`` counts those that can be shown (0 with ``reason``, which says
    why none can); ``version`` changes whenever the file does; ``nbytes`` is the file's size."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    number_of_frames: int
    reason: str | None
    version: str
    nbytes: int


class Level(StrEnum):
    """What a search is for (PS3.18 10.6.1)."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


@dataclass(frozen=True, slots=True)
class Match:
    """One matching key (PS3.4 C.2.2.2): keyword, and its value as DICOM writes it: single value, wildcards, range, or
    several UIDs (a list: any of them)."""

    keyword: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A search (PS3.18 10.6). ``include``: further attributes wanted, as eight hex digits; ``include_all``: all that
    the level has. ``limit`` None: no limit but the archive's own."""

    level: Level
    study_uid: str | None = None
    series_uid: str | None = None
    matches: tuple[Match, ...] = ()
    include: frozenset[str] = frozenset()
    include_all: bool = False
    fuzzy: bool = False
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class OpenInstance:
    """A stored file, open for reading: positional reads only, the descriptor is shared. ``nbytes``: its size."""

    descriptor: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixels of a file are: element ``tag`` of ``vr``, whose value has ``length`` [byte] (None: undefined)
    from ``offset`` on, in the inflated data set where ``inflate_offset`` is not 0. ``word_bytes``: of how many bytes
    the words are that big endian has in another order, else 1."""

    tag: int
    vr: str
    offset: int
    length: int | None
    word_bytes: int
    inflate_offset: int


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A stored object without its pixels, in Explicit VR Little Endian: ``head`` from the preamble to the elements
    before them, ``tail`` those behind them; where the file has the pixels themselves, None where there are none."""

    head: bytes
    tail: bytes
    pixels: PixelPlace | None


DicomJson = dict[str, Any]
"""A data set in the DICOM JSON Model (PS3.18 annex F): tag as eight hex digits -> {"vr": ..., "Value": [...]}."""


class Answers(list[DicomJson]):
    """What a search found. ``cut``: there would be more, but for the memory that they take; the next ones are found by
    ``offset``."""

    def __init__(self, found: Iterable[DicomJson] = (), *, cut: bool = False) -> None:
        super().__init__(found)
        self.cut = cut


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What a stable integer id stands for: the first frame of an instance, and what surrounds it."""

    study: StudyAttributes
    series: SeriesRecord
    frame: FrameRecord


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """A file that is not in the archive: its path below its root, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """How far the archive is. ``files_done`` of ``files_total`` are those of the scan that runs or ran last."""

    scanning: bool
    files_done: int
    files_total: int
    instances: int
    frames: int
    unreadable: tuple[UnreadableEntry, ...]


class Source(Protocol):
    """Where a decoder's input comes from. May be called from several threads at once."""

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        """The bytes of one frame. Raises NotFound, NotRenderable, CorruptPixelData, UnsupportedTransferSyntax and
        TooLarge."""
        ...


class Frames(Source, Protocol):
    """What a renderer asks of an archive. Methods may be called from several threads at once, but ``fetch_now``."""

    @property
    def generation(self) -> int:
        """Rises whenever something that was held has changed or gone: what was kept of it elsewhere is stale."""
        ...

    def fetch_now(self, ref: FrameRef, is_wanted: Callable[[FrameRecord], bool]) -> EncodedFrame | None:
        """The same for an event loop, which must not wait for a disk: where it lies in memory. None where it does not
        or may not, where it is not wanted, and where ``fetch`` has to say what is wrong."""
        ...


class Archive(Frames, Protocol):
    """Reading methods may be called from several threads at once; each raises NotFound for what it does not hold."""

    def describe(self, ref: FrameRef) -> FrameRecord:
        """The same frame without its bytes, of the file as it is now; raises the same errors."""
        ...

    def studies(self) -> tuple[StudyRecord, ...]:
        """All studies, the latest first."""
        ...

    def series(self, study_uid: str, series_uid: str) -> SeriesManifest:
        """One series with all its frames."""
        ...

    def series_version(self, study_uid: str, series_uid: str) -> str:
        """What changes whenever ``series`` would answer something else; cheap to ask. Raises NotFound."""
        ...

    def image(self, image_id: int) -> ImageRecord:
        """The instance behind a stable integer id; raises what ``fetch`` raises."""
        ...

    def image_id(self, sop_instance_uid: str) -> int:
        """The stable integer id of an instance."""
        ...

    def search(self, query: Query) -> Answers:
        """What matches, in a fixed order (studies: latest first; series and instances: by number, then UID), each with
        the level's attributes of PS3.18 10.6.3.3 and those of the levels above that a relational query needs.

        Raises BadRequest for a matching value that is none."""
        ...

    def searchable(self, level: Level) -> frozenset[str]:
        """Keywords of the attributes that ``search`` can match at a level, those of the levels above included."""
        ...

    def instances(
        self, study_uid: str, series_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[InstanceRecord]:
        """All instances of a study or series, or one: by Series Number, Instance Number and UID. Raises NotFound."""
        ...

    def metadata(self, instances: Sequence[InstanceRecord]) -> Iterator[bytes]:
        """Of each instance its whole data set as JSON text (DICOM JSON Model), without Pixel Data; reads as it goes.

        Large values are ``BulkDataURI``s relative to the instance: ``bulkdata/`` and the path of ``bulkdata()``."""
        ...

    def bulkdata(self, instance: InstanceRecord, path: str) -> bytes:
        """The value of one element, little-endian, by its tag as eight hex digits, or tags and item numbers (from 1)
        of the sequences around it: ``52009230/1/00289145/1/00281201``. Raises NotFound."""
        ...

    def rewritten(
        self, instance: InstanceRecord, transfer_syntax_uid: str, changes: Sequence[tuple[int, str, int | str]]
    ) -> Rewritten:
        """All of it but the pixels, as a file in another transfer syntax of explicit VR and little endian. ``changes``:
        tag, VR and value (of US: a number) of elements that become another. Raises NotFound, CorruptPixelData,
        NotRenderable and TooLarge."""
        ...

    def open(self, instance: InstanceRecord) -> AbstractContextManager[OpenInstance]:
        """The stored file. Raises NotFound where it has gone or changed."""
        ...

    def status(self) -> ArchiveStatus:
        """Progress and the list of unreadable files."""
        ...

    def close(self) -> None:
        """Release files and database."""
        ...
