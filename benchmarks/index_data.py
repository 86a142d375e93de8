"""What is put into an index to measure it: made-up studies with the header of a real CT, and files of that CT."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from gpu_render.archive.index import FileChange, FileKey, Index
from gpu_render.archive.parse import Parsed, parse_file, unpack_result
from gpu_render.reference import FrameRef

INSTANCES_A_SERIES = 100
SERIES_A_STUDY = 3
BATCH = 512
"""Files of one transaction, as in a scan."""
FILES_A_FOLDER = 100
_FAMILY = [
    f"{a}{b}{c}"
    for a in ("Ba", "Mü", "Sch", "Kra", "Lo", "Ne")
    for b in ("ck", "ll", "rn")
    for c in ("er", "mann", "s")
]
_GIVEN = ("Anna", "Ben", "Carla", "Dirk", "Eva", "Finn", "Grete", "Hans", "Ida", "Jan", "Klara", "Lars")
_FIRST_DAY = date(2014, 1, 1)
_DAYS = 4000


@dataclass(frozen=True, slots=True)
class Study:
    """What a made-up study says. Two studies in a row are of one patient."""

    number: int

    @property
    def uid(self) -> str:
        return f"1.2.826.0.1.3680043.9.{self.number}"

    @property
    def patient_id(self) -> str:
        return f"P{self.number // 2:08d}"

    @property
    def patient_name(self) -> str:
        chance = random.Random(self.number // 2)
        return f"{chance.choice(_FAMILY)}-{chance.choice(_FAMILY)}^{chance.choice(_GIVEN)}^{chance.choice(_GIVEN)}"

    @property
    def day(self) -> str:
        return f"{_FIRST_DAY + timedelta(days=random.Random(self.number).randrange(_DAYS)):%Y%m%d}"

    def series_uid(self, number: int) -> str:
        return f"{self.uid}.{number}"


def ct() -> Path:
    """A CT slice of 128 x 128, 39 kB, from pydicom."""
    found = get_testdata_file("CT_small.dcm")
    if found is None:
        raise FileNotFoundError("CT_small.dcm")
    return Path(str(found))


def parsed_ct() -> Parsed:
    """What the service makes of it."""
    path = ct()
    return unpack_result(*parse_file({"root": str(path.parent), "path": path.name}, memoryview(b"")))


def place_of(instance: int) -> tuple[Study, int, int]:
    """Study, number of the series and of the instance in it, all of an instance's number; the latter two from 1."""
    series, within = divmod(instance, INSTANCES_A_SERIES)
    study, series_number = divmod(series, SERIES_A_STUDY)
    return Study(study), series_number + 1, within + 1


def frame_of(instance: int) -> FrameRef:
    """Its only frame."""
    study, series, within = place_of(instance)
    return FrameRef(study.uid, study.series_uid(series), f"{study.series_uid(series)}.{within}", 1)


def changes(root: bytes, parsed: Parsed, first: int, last: int) -> Iterator[FileChange]:
    """Made-up instances, with all else as the CT has it."""
    for instance in range(first, last):
        study, series, within = place_of(instance)
        ref = frame_of(instance)
        document: dict[str, Any] = {
            **parsed.document,
            "study_instance_uid": ref.study_uid,
            "series_instance_uid": ref.series_uid,
            "sop_instance_uid": ref.sop_instance_uid,
            "instance": {**parsed.document["instance"], "InstanceNumber": within},
        }
        if within == 1 or instance == first:
            of_study, of_series = _attributes(parsed, study, series)
        document |= of_study | of_series
        path = f"{study.number:06d}/{series}/{within:04d}.dcm".encode()
        yield FileChange(FileKey(root, path), 39206, instance, document, parsed.spans, metadata=parsed.metadata)


def _attributes(parsed: Parsed, study: Study, series: int) -> tuple[dict[str, Any], dict[str, Any]]:
    said = parsed.document["study"] | {
        "PatientName": study.patient_name,
        "PatientID": study.patient_id,
        "StudyDate": study.day,
        "AccessionNumber": f"A{study.number}",
    }
    of_study = parsed.document["study_attributes"] | {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": study.patient_name}]},
        "00100020": {"vr": "LO", "Value": [study.patient_id]},
        "00080020": {"vr": "DA", "Value": [study.day]},
    }
    of_series = parsed.document["series"] | {"SeriesNumber": series}
    return {"study": said, "study_attributes": of_study}, {"series": of_series}


def fill(index: Index, root: bytes, first: int, last: int, progress: Callable[[int], object]) -> None:
    """Put instances into an index in transactions as a scan has them."""
    parsed = parsed_ct()
    for start in range(first, last, BATCH):
        end = min(last, start + BATCH)
        index.write(list(changes(root, parsed, start, end)))
        progress(end - start)


def write_files(folder: Path, count: int) -> list[Path]:
    """The CT as slices of series of a hundred, each in a folder of its own: with UIDs, numbers, place and times of its
    own, as a device writes them."""
    ds, paths = pydicom.dcmread(ct()), []
    for instance in range(count):
        study, series, within = place_of(instance)
        ref = frame_of(instance)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = ref.study_uid, ref.series_uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(ref.sop_instance_uid)
        ds.PatientName, ds.PatientID, ds.StudyDate = study.patient_name, study.patient_id, study.day
        ds.AccessionNumber, ds.SeriesNumber = f"A{study.number}", series
        ds.InstanceNumber = ds.AcquisitionNumber = within
        ds.SliceLocation = f"{-77.2 + 2.5 * within:.4f}"
        ds.ImagePositionPatient = ["-158.135803", "-179.035797", f"{-75.699997 + 2.5 * within:.6f}"]
        ds.AcquisitionTime = ds.ContentTime = ds.InstanceCreationTime = (
            f"07{27 + within // 60}{within % 60:02d}.{instance % 1000:03d}"
        )
        ds.XRayTubeCurrent = 170 + instance % 7
        path = folder / f"{instance // FILES_A_FOLDER:05d}" / f"{instance:07d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path)
        paths.append(path)
    return paths


def write_known_files(folder: Path, index: Index, root: bytes, count: int) -> None:
    """Very short files that an index knows already as instances of the CT: a scan only has to compare them."""
    parsed, paths = parsed_ct(), list[Path]()
    for number in range(count):
        path = folder / f"{number // FILES_A_FOLDER:05d}" / f"{number:07d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        paths.append(path)
    for start in range(0, count, BATCH):
        batch = []
        for change, path in zip(changes(root, parsed, start, min(count, start + BATCH)), paths[start:], strict=False):
            status = path.stat()
            key = FileKey(root, str(path.relative_to(folder)).encode())
            batch.append(FileChange(key, status.st_size, status.st_mtime_ns, change.document, b"", "", change.metadata))
        index.write(batch)
