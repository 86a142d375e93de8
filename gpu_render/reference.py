"""What names one frame: three UIDs and a frame number, checked once at the edge."""

import re
from dataclasses import dataclass
from functools import lru_cache

from gpu_render.errors import InvalidFrameNumber, InvalidUid

# PS3.5 section 9.1 forbids a leading zero in a component. Real files break that rule, so it is tolerated here.
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def check_uid(text: str, what: str = "UID") -> str:
    """Return ``text`` if it has the syntax of a UID (PS3.5 section 9.1), else raise InvalidUid."""
    if len(text) > 64 or _UID.fullmatch(text) is None:
        raise InvalidUid(f"{what} is malformed: a UID has at most 64 characters, digits and dots")
    return text


@dataclass(frozen=True, slots=True)
class FrameRef:
    """One frame of one SOP Instance. ``frame_number`` counts from 1, as DICOM does."""

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    frame_number: int

    @property
    def frame_index(self) -> int:
        """The same frame counted from 0: the only place where the two meet."""
        return self.frame_number - 1

    @classmethod
    @lru_cache(maxsize=4096)  # the frames of a few series: what is refused is not kept, nor anything long
    def parse(cls, study_uid: str, series_uid: str, sop_instance_uid: str, frame_number: str | int) -> "FrameRef":
        """Build a reference from text that came from outside.

        Raises InvalidUid and InvalidFrameNumber.
        """
        number = str(frame_number)
        if not (number.isascii() and number.isdigit() and len(number) <= 10 and int(number) >= 1):
            raise InvalidFrameNumber("a frame number is an integer from 1 upwards")
        return cls(
            check_uid(study_uid, "Study Instance UID"),
            check_uid(series_uid, "Series Instance UID"),
            check_uid(sop_instance_uid, "SOP Instance UID"),
            int(number),
        )
