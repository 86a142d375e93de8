"""Where frames come from: the Archive protocol and the records it lists. ``folder.py`` is the first archive."""

from dataclasses import dataclass
from typing import Protocol

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


class Archive(Protocol):
    """Reading methods may be called from several threads at once; each raises NotFound for what it does not hold."""

    @property
    def generation(self) -> int:
        """Rises whenever something that was held has changed or gone: what was kept of it elsewhere is stale."""
        ...

    def fetch(self, ref: FrameRef) -> EncodedFrame:
        """The bytes of one frame. Raises NotFound, NotRenderable, CorruptPixelData, UnsupportedTransferSyntax and
        TooLarge."""
        ...

    def describe(self, ref: FrameRef) -> FrameRecord:
        """The same frame without its bytes; raises the same errors."""
        ...

    def studies(self) -> tuple[StudyRecord, ...]:
        """All studies, the latest first."""
        ...

    def series(self, study_uid: str, series_uid: str) -> SeriesManifest:
        """One series with all its frames."""
        ...

    def image(self, image_id: int) -> ImageRecord:
        """The instance behind a stable integer id; raises what ``fetch`` raises."""
        ...

    def image_id(self, sop_instance_uid: str) -> int:
        """The stable integer id of an instance."""
        ...

    def status(self) -> ArchiveStatus:
        """Progress and the list of unreadable files."""
        ...

    def close(self) -> None:
        """Release files and database."""
        ...
