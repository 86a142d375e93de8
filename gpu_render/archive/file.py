"""One DICOM file as an archive: what ``gpu-render render FILE`` reads from."""

import os
from pathlib import Path

from gpu_render.archive.folder import FolderArchive, ParsePool
from gpu_render.archive.index import FileKey
from gpu_render.errors import UnreadableFile
from gpu_render.reference import FrameRef


class FileArchive(FolderArchive):
    """The folder of a file, of which only this one file is indexed. Raises UnreadableFile."""

    def __init__(self, file: Path, pool: ParsePool) -> None:
        path = Path(file).resolve()
        if not path.is_file():
            raise UnreadableFile("no such file")
        super().__init__((path.parent,), None, pool)
        self._refresh(FileKey(os.fsencode(path.parent), os.fsencode(path.name)))
        unreadable = self._index.unreadable()
        if unreadable:
            self.close()
            raise UnreadableFile(unreadable[0].reason)

    def ref(self, frame_number: int) -> FrameRef:
        """The file's frame with this number, from 1."""
        first = self._index.first_frame(1)
        return FrameRef(first.study_uid, first.series_uid, first.sop_instance_uid, frame_number)
