"""Who is asked what: one line for each way to get a slice."""

from dataclasses import dataclass

from benchmarks import data
from benchmarks.peers import answers
from benchmarks.peers.answers import Check
from benchmarks.peers.slices import WINDOW, Slice

OURS, UNCACHED, RULER, OLD, NGINX, ORTHANC = (
    "gpu-render",
    "gpu-render, no cache",
    "ruler",
    "old design",
    "nginx",
    "Orthanc",
)

SAMPLES, STORED, FRAMES, PICTURE = "16-bit samples", "bytes as they lie", "WADO-RS frames", "8-bit picture"
KINDS = (SAMPLES, STORED, FRAMES, PICTURE)


UNCOMPRESSED = data.NAMES[1]
COMPRESSED = tuple(name for name in data.NAMES.values() if name != UNCOMPRESSED)


@dataclass(frozen=True, slots=True)
class Route:
    """``template`` is the URL, by the names of Slice.names. ``also``: transfer syntaxes in which it is asked for beside
    uncompressed; ``windowed``: whether a picture shows the window that was asked for; ``fresh``: whether each request
    asks for a window that nobody asked for before, as somebody does who drags it."""

    kind: str
    who: str
    name: str
    template: str
    accept: str
    check: Check
    also: tuple[str, ...] = COMPRESSED
    windowed: bool = True
    fresh: bool = False

    def asked_in(self, syntax: str) -> bool:
        return syntax == UNCOMPRESSED or syntax in self.also

    def url(self, one: Slice, nth: int = 0) -> str:
        """``nth`` makes the window another one, too little wider to be seen."""
        width = f"{WINDOW[1] + nth / 1e6:.6f}" if nth else WINDOW[1]
        return self.template.format(**{**one.names, "width": width})


_FRAME = "/api/studies/{study}/series/{series}/instances/{sop}/frames/1"
_DICOMWEB = "/dicomweb/studies/{study}/series/{series}/instances/{sop}"
_THEIR_DICOMWEB = "/dicom-web/studies/{study}/series/{series}/instances/{sop}"
_REST = "/instances/{orthanc}"
_OF_STORED = "?stage=stored"
_OF_DISPLAY = "?stage=display&window={center},{width}"
_WINDOW = "?window={center},{width},linear"
_REST_WINDOW = "?window-center={center}&window-width={width}"
_OLD = "/{folder}/{file}"

_ANY, _OCTETS, _JPEG, _PNG, _JSON = "*/*", "application/octet-stream", "image/jpeg", "image/png", "application/json"
_PAM = "image/x-portable-arbitrarymap"
_PART = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
_J2K = ("JPEG 2000",)
_AS_STORED = "application/octet-stream; transfer-syntax=*"

ROUTES = (
    Route(SAMPLES, OURS, "raw array", _FRAME + _OF_STORED, _OCTETS, answers.samples),
    Route(SAMPLES, UNCACHED, "raw array", _FRAME + _OF_STORED, _OCTETS, answers.samples, also=()),
    Route(SAMPLES, RULER, "raw", "/raw" + _OLD, _ANY, answers.samples),
    Route(SAMPLES, ORTHANC, "/numpy", _REST + "/frames/0/numpy?rescale=false", _ANY, answers.numpy_file),
    Route(SAMPLES, ORTHANC, "/image-int16, PAM", _REST + "/frames/0/image-int16", _PAM, answers.pam16),
    Route(SAMPLES, OLD, "JSON list", "/list" + _OLD, _JSON, answers.number_list, also=()),
    Route(SAMPLES, NGINX, "file", "/raw" + _OLD, _ANY, answers.samples, also=()),
    Route(STORED, OURS, "frame", _DICOMWEB + "/frames/1", _AS_STORED, answers.as_stored, _J2K),
    Route(STORED, RULER, "stored", "/stored" + _OLD, _ANY, answers.as_stored, _J2K),
    Route(STORED, ORTHANC, "/frames/0/raw", _REST + "/frames/0/raw", _ANY, answers.as_stored, _J2K),
    Route(STORED, NGINX, "file", "/stored" + _OLD, _ANY, answers.as_stored, _J2K),
    Route(FRAMES, OURS, "frames", _DICOMWEB + "/frames/1", _PART, answers.samples_part),
    Route(FRAMES, ORTHANC, "frames", _THEIR_DICOMWEB + "/frames/1", _PART, answers.samples_part),
    Route(PICTURE, OURS, "raw array", _FRAME + _OF_DISPLAY, _OCTETS, answers.grey),
    Route(PICTURE, OURS, "raw array, new window", _FRAME + _OF_DISPLAY, _OCTETS, answers.grey, fresh=True),
    Route(PICTURE, OURS, "/rendered, JPEG", _DICOMWEB + "/rendered" + _WINDOW, _JPEG, answers.jpeg),
    Route(
        PICTURE,
        OURS,
        "/rendered, JPEG, new window",
        _DICOMWEB + "/rendered" + _WINDOW,
        _JPEG,
        answers.jpeg,
        ("JPEG 2000",),
        fresh=True,
    ),
    Route(PICTURE, OURS, "/rendered, PNG", _DICOMWEB + "/rendered" + _WINDOW, _PNG, answers.png, also=()),
    Route(PICTURE, RULER, "windowed", "/windowed" + _OLD, _ANY, answers.grey),
    Route(PICTURE, ORTHANC, "WADO-RS /rendered, JPEG", _THEIR_DICOMWEB + "/rendered" + _WINDOW, _JPEG, answers.jpeg),
    Route(PICTURE, ORTHANC, "/rendered, JPEG", _REST + "/rendered" + _REST_WINDOW, _JPEG, answers.jpeg),
    Route(PICTURE, ORTHANC, "/rendered, PNG", _REST + "/rendered" + _REST_WINDOW, _PNG, answers.png, also=()),
    Route(PICTURE, ORTHANC, "/rendered, PAM", _REST + "/rendered" + _REST_WINDOW, _PAM, answers.pam8),
    Route(PICTURE, ORTHANC, "/preview, JPEG", _REST + "/preview", _JPEG, answers.stretched_jpeg, (), windowed=False),
    Route(PICTURE, ORTHANC, "/preview, PAM", _REST + "/preview", _PAM, answers.stretched_pam8, windowed=False),
    Route(PICTURE, OLD, "PNG in base64", "/png" + _OLD, _JSON, answers.png_in_json, also=()),
    Route(PICTURE, NGINX, "file", "/windowed" + _OLD, _ANY, answers.grey, also=()),
)
