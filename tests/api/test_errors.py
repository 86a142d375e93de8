"""Every row of RENDERING.md's table of errors over HTTP: status, problem type, and nothing about the patient.

One real server over files of ``broken.py``; what needs a decoder that misbehaves is in test_faults.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from api.problems import STATUS
from gpu_render import errors
from gpu_render.errors import RenderError
from tests.api import broken
from tests.api.broken import (
    BAD_FRAME,
    BAD_REGION,
    BAD_REQUEST,
    BAD_UID,
    BAD_WINDOW,
    CANARY,
    FRAME,
    FULL,
    NO_METHOD,
    NO_ROUTE,
    NO_TIME,
    NOT_ACCEPTABLE,
    NOT_FOUND,
    OLD,
    SERIES,
    SIDE,
    STOPPED,
    Case,
    Kind,
    assert_nothing_of_the_patient,
    check_problem,
    frame_url,
)
from tests.api.served import Answer, Served, serving
from tests.data import file_bytes

CASES = broken.all_cases()
SHOWN = broken.shown_with_notes()
UNREADABLE = broken.unreadable()
GOOD = broken.grey()
GOOD_UID = GOOD["SOPInstanceUID"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service over all files. When it has ended, its whole log is looked through."""
    base = tmp_path_factory.mktemp("errors")
    root = base / f"{CANARY}^Clinic"
    root.mkdir()
    for number, case in enumerate((*CASES, *SHOWN.values())):
        (root / f"{CANARY}^{number}.dcm").write_bytes(case.data)
    for name, (data, _) in UNREADABLE.items():
        (root / name).write_bytes(data)
    (root / f"{CANARY}^good.dcm").write_bytes(file_bytes(GOOD, FRAME))
    (root / f"{CANARY}^twin.dcm").write_bytes(file_bytes(GOOD, FRAME))
    with serving(root, base, environment={"PYTHONWARNINGS": "default"}) as service:
        service.wait_for_files(len(list(root.iterdir())))
        yield service
    log = service.log.read_text()
    assert "listens on" in log
    assert_nothing_of_the_patient(log, base)
    assert "unforeseen" not in log
    assert "Traceback" not in log
    assert "Warning" not in log


@pytest.fixture(scope="module")
def image_ids(served: Served) -> dict[str, int]:
    return served.image_ids()


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_that_cannot_be_shown(case: Case, served: Served, image_ids: dict[str, int]) -> None:
    kind = case.status, case.kind
    answer = served.ask(case.url)
    problem = check_problem(answer, kind, case.url, case.says)
    assert re.search(rf"(?<![\d.]){re.escape(case.sop_instance_uid)}(?![\d.])", problem["detail"])
    assert (problem["sop_instance_uid"], problem["frame_number"]) == (case.sop_instance_uid, case.frame)
    for condition in ("*", '"0123456789abcdef0123456789abcdef"'):
        again = served.ask(case.url, headers={"If-None-Match": condition})
        assert (again.status, again.body) == (case.status, answer.body)
    head = served.ask(case.url, "HEAD")
    assert (head.status, head.body) == (case.status, b"")
    assert without_date(head) == without_date(answer)
    if case.old_query is not None:
        old = f"{OLD.format(id=image_ids[case.sop_instance_uid])}?frame={case.frame}&{case.old_query}"
        for accept in ("application/json", "application/octet-stream"):
            problem = check_problem(served.ask(old, headers={"Accept": accept}), kind, old, case.says)
            assert case.sop_instance_uid in problem["detail"]


def without_date(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "date"}


def test_unreadable_files_are_listed_with_reasons_that_quote_nothing(served: Served) -> None:
    entries = {entry["path"]: entry["reason"] for entry in served.json("/api/index")["unreadable"]}
    assert entries.pop(f"{CANARY}^twin.dcm") == "duplicate SOP Instance UID"
    assert entries.keys() == UNREADABLE.keys()
    for name, reason in entries.items():
        assert re.search(UNREADABLE[name][1], reason), reason
        assert_nothing_of_the_patient(reason)


def test_a_manifest_says_what_it_lacks_and_why(served: Served) -> None:
    """Patient's Name and the like are in it by design; they are in no reason and in no note."""
    manifest = served.json(SERIES)
    problems = {problem["sop_instance_uid"]: problem["reason"] for problem in manifest["problems"]}
    assert_nothing_of_the_patient(" ".join(problems.values()))
    frames = {frame["sop_instance_uid"]: frame for frame in manifest["frames"]}
    assert problems.keys() | frames.keys() == {c.sop_instance_uid for c in (*CASES, *SHOWN.values())} | {GOOD_UID}
    assert not problems.keys() & frames.keys()
    for case in CASES:
        if case.sop_instance_uid in problems and not case.query:
            assert problems[case.sop_instance_uid] in served.ask(case.url).problem["detail"]
    for case in SHOWN.values():
        notes = " ".join(frames[case.sop_instance_uid]["notes"])
        assert case.says in notes
        assert_nothing_of_the_patient(notes)


@pytest.mark.parametrize("name", SHOWN)
def test_what_can_be_ignored_in_a_file_is_not_quoted_in_headers(name: str, served: Served) -> None:
    for stage in ("stored", "modality", "display"):
        answer = served.ask(SHOWN[name].url + f"stage={stage}")
        assert answer.status == 200
        assert_nothing_of_the_patient(str(dict(answer.headers)))


# --- requests ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for an image that is whole; ``{id}`` in ``path`` is the image's id on the old route."""

    kind: Kind
    path: str
    says: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"

    def __str__(self) -> str:
        return f"{self.kind[0]}-{self.method}-{self.path}-{'-'.join(self.headers.values())}"


def not_found() -> Iterator[Asked]:
    """404: a level that is not there; the answer says which."""
    there, missing = GOOD_UID, "1.2.99.99"
    yield Asked(NOT_FOUND, frame_url(there, "2"), f"no frame 2 of SOP Instance {there}: it has 1 frame$")
    for number in ("3", "129", "65536", "9999999999"):
        yield Asked(NOT_FOUND, frame_url(there, number), f"no frame {number} of SOP Instance {there}")
    yield Asked(NOT_FOUND, frame_url(missing), f"no SOP Instance {missing} in series 1.2.4.1.1")
    path = f"/api/studies/1.2.4.1/series/{missing}/instances/{there}/frames/1"
    yield Asked(NOT_FOUND, path, f"no series {missing} in study 1.2.4.1 .*{there}")
    path = f"/api/studies/{missing}/series/1.2.4.1.1/instances/{there}/frames/1"
    yield Asked(NOT_FOUND, path, f"no study {missing} .*{there}")
    yield Asked(NOT_FOUND, f"/api/studies/{missing}/series/1.2.4.1.1", f"no study {missing}$")
    yield Asked(NOT_FOUND, f"/api/studies/1.2.4.1/series/{missing}", f"no series {missing}")
    for number in ("0", "999999", "-1", "1.5", "x", "9" * 18, "9" * 30, CANARY, "%F9", "%00"):
        yield Asked(NOT_FOUND, OLD.format(id=number))
    yield Asked(NOT_FOUND, OLD + "?frame=2", f"has 1 frame.*{there}")
    yield Asked(NOT_FOUND, OLD + "?frame=9999999999", there)
    for path in (
        "/api",
        "/api/studies/1.2",
        "/api/nothing",
        f"/api/{CANARY}",
        f"/{CANARY}.js",
        "/api/studies//series/1.2",
    ):
        yield Asked(NO_ROUTE, path)
    yield Asked(NO_ROUTE, "/dicom-viewer/api/image//data/")


def malformed_uids() -> Iterator[Asked]:
    """400: what breaks PS3.5 section 9, at each level."""
    wrong = ("x", "1..2", ".1", "1.", ".", "1.2.a", "-1.2", "1,2", "*", "1.2%20", "%201.2", "1.2%0A", "1.2%00", CANARY)
    for text in (*wrong, "%D9%A1.%D9%A2", "1." + "2" * 63, "1.2%FF", "1.2%C2%B2", "%7B1.2%7D", "1.2;1.3", "1.2&1.3"):
        yield Asked(BAD_UID, frame_url(text), "SOP Instance UID is malformed")
        yield Asked(BAD_UID, f"/api/studies/{text}/series/1.2.4.1.1", "Study Instance UID is malformed")
        yield Asked(BAD_UID, f"/api/studies/1.2.4.1/series/{text}", "Series Instance UID is malformed")
        path = f"/api/studies/1.2.4.1/series/{text}/instances/{GOOD_UID}/frames/1"
        yield Asked(BAD_UID, path, "Series Instance UID is malformed")


def malformed_frames() -> Iterator[Asked]:
    """400: what is no frame number, on both routes."""
    wrong = ("0", "-1", "abc", "1.5", "1e0", "%2B1", "%201", "1%20", "1,2", "0x1", "00", "%EF%BC%91", "%C2%B2", CANARY)
    for text in (*wrong, "99999999999", "nan"):
        yield Asked(BAD_FRAME, frame_url(GOOD_UID, text), f"integer from 1.*{GOOD_UID}")
        yield Asked(BAD_FRAME, f"{OLD}?frame={text}", f"integer from 1.*{GOOD_UID}")


def malformed_windows() -> Iterator[Asked]:
    """400: windows that PS3.3 C.11.2 does not allow, on both routes."""
    windows = (
        *("40", "40,", ",400", ",", ",,", "40,400,", "40,400,linear,1", "40;400", "40 400", "abc,400", "40,abc"),
        *(
            "40,0",
            "40,-400",
            "40,0.5",
            "40,0.999999",
            "40,0,linear",
            "40,0,sigmoid",
            "40,-1,sigmoid",
            "40,1e-400,sigmoid",
        ),
        *("40,0,linear-exact", "40,-0.5,linear-exact", "nan,400", "40,nan", "inf,400", "-inf,400", "40,inf", "40,-inf"),
        *("1e999,400", "40,1e999", "40,400,cubic", "40,400,LINEAR2", "40,400,linear exact", "0x28,400", "1_0,400"),
        *("0,1e308", "1e308,1", "-1e308,1e307,sigmoid"),  # no float64 holds 255 times such a width
        *("40,4_00", "٤٠,400", "40,400,ｌinear", f"40,400,{CANARY}", f"{CANARY},400", "40,400\0"),
    )
    for window in windows:
        query = "window=" + "".join(
            c if c.isascii() and c > " " else "".join(f"%{b:02X}" for b in c.encode()) for c in window
        )
        yield Asked(BAD_WINDOW, frame_url(GOOD_UID, query=query), f"w(indow|idth).*{GOOD_UID}")
        yield Asked(BAD_WINDOW, f"{OLD}?{query}", "w(indow|idth)")
    for index in ("0", "1", "9", "9999"):  # the file has none
        yield Asked(BAD_WINDOW, frame_url(GOOD_UID, query=f"voi={index}"), f"has 0 VOI transformations.*{GOOD_UID}")


def malformed_views() -> Iterator[Asked]:
    """400: regions, viewports, stages, indices and flags that are none, or do not go together."""
    regions = (
        *("0,0,33,1", "0,0,1,33", "32,0,1,1", "0,32,1,1", "31,31,2,1", "999999999,0,1,1", "0,0,999999999,1"),
        *("0,0,0,1", "0,0,1,0", "0,0,1", "0,0,1,1,1", "0,0,1,1,", ",,,", "a,b,c,d", "-1,0,1,1", "0,0,1.5,1"),
        *("0,0,%2B1,1", "0,0,1e1,1", "0,0,9999999999,1", "0;0;1;1", f"0,0,1,{CANARY}", "0,0,%D9%A1,1"),
    )
    viewports = ("0,10", "10,0", "10", "10,10,10", "9000,10", "10,8193", "-1,10", "x,y", "1e2,10", ",", f"{CANARY},1")
    for text in regions:
        yield Asked(BAD_REGION, frame_url(GOOD_UID, query=f"region={text}"), GOOD_UID)
    for text in viewports:
        yield Asked(BAD_REGION, frame_url(GOOD_UID, query=f"viewport={text}"), GOOD_UID)
    for query in (
        *("stage=raw", "stage=0", f"stage={CANARY}", "stage=display%20", "stage=stored,display"),
        *("voi=x", "voi=-1", "voi=1.5", "voi=99999", "voi=%C2%B2", f"voi={CANARY}", "voi=0,1"),
        *("invert=perhaps", "invert=2", "invert=-1", f"invert={CANARY}", "invert=true,false"),
        *("stage=stored&window=40,400", "stage=modality&window=40,400", "stage=stored&voi=0", "stage=modality&voi=0"),
        *("stage=stored&invert=true", "stage=modality&invert=true", "stage=stored&viewport=8,8"),
    ):
        yield Asked(BAD_REQUEST, frame_url(GOOD_UID, query=query), GOOD_UID)


def not_acceptable() -> Iterator[Asked]:
    """406: nothing of what Accept names is made here; the answer says what is."""
    old = OLD
    for accept in (
        "image/png",
        "text/html",
        "application/dicom",
        "application/octet-stream;q=0",
        "*/*;q=0",
        CANARY,
        "/",
    ):
        headers = {"Accept": accept}
        yield Asked(NOT_ACCEPTABLE, frame_url(GOOD_UID), f"application/octet-stream.*{GOOD_UID}", headers)
        yield Asked(NOT_ACCEPTABLE, old, "application/json", headers)
    yield Asked(NOT_ACCEPTABLE, frame_url(GOOD_UID), "x-npy", {"Accept": "application/json"})
    yield Asked(NOT_ACCEPTABLE, old, "application/octet-stream", {"Accept": "application/x-npy"})
    yield Asked(NOT_ACCEPTABLE, frame_url(CANARY), "octet-stream", {"Accept": "image/png"})


def wrong_methods() -> Iterator[Asked]:
    """405: everything here is only read."""
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for path in (frame_url(GOOD_UID), SERIES, "/api/studies", "/api/index", OLD):
            yield Asked(NO_METHOD, path, method=method)


REQUESTS = [
    *not_found(),
    *malformed_uids(),
    *malformed_frames(),
    *malformed_windows(),
    *malformed_views(),
    *not_acceptable(),
    *wrong_methods(),
]


@pytest.mark.parametrize("asked", REQUESTS, ids=str)
def test_a_request_that_cannot_be_answered(asked: Asked, served: Served, image_ids: dict[str, int]) -> None:
    path = asked.path.replace("{id}", str(image_ids[GOOD_UID]))
    answer = served.ask(path, asked.method, asked.headers)
    check_problem(answer, asked.kind, path, asked.says)
    if asked.method == "GET":
        again = served.ask(path, headers={**asked.headers, "If-None-Match": "*"})
        assert (again.status, again.body) == (answer.status, answer.body)
        head = served.ask(path, "HEAD", asked.headers)
        assert (head.status, head.body) == (answer.status, b"")
        assert without_date(head) == without_date(answer)


# --- what is shown ------------------------------------------------------------------------------------------


def test_any_etag_is_304_only_where_there_is_a_picture(served: Served) -> None:
    """``If-None-Match: *`` on frames that cannot be shown is among the tests above."""
    answer = served.ask(frame_url(GOOD_UID))
    for condition in ("*", answer.headers["etag"], f'"x", {answer.headers["etag"]}'):
        again = served.ask(frame_url(GOOD_UID), headers={"If-None-Match": condition})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    outside = frame_url(GOOD_UID, query="region=0,0,33,33")
    check_problem(served.ask(outside, headers={"If-None-Match": "*"}), BAD_REGION, outside)
    missing = frame_url(GOOD_UID, "2")
    check_problem(served.ask(missing, headers={"If-None-Match": answer.headers["etag"]}), NOT_FOUND, missing)


@pytest.mark.parametrize("name", ["third-frame-missing", "third-frame-cut", "frame-3-short"])
def test_a_broken_frame_does_not_hide_the_others(name: str, served: Served) -> None:
    case = next(case for case in CASES if case.name == name)
    whole = broken.samples() if "third" in name else np.zeros((SIDE, SIDE), np.uint16)
    for number in ("1", "2"):
        answer = served.ask(frame_url(case.sop_instance_uid, number, "stage=stored"))
        assert (answer.status, answer.body) == (200, whole.tobytes())


# --- completeness -------------------------------------------------------------------------------------------


def test_every_row_of_the_table_of_statuses_occurs() -> None:
    """Every class that ``api.problems`` maps, but RenderError itself, which nothing raises."""
    seen = {(case.status, case.kind) for case in CASES} | {asked.kind for asked in REQUESTS} | {STOPPED, FULL, NO_TIME}
    kinds = {(status, kind_of(error)) for error, status, _ in STATUS if error is not RenderError}
    assert kinds == (seen | STORING | SELF_TEST) - {NO_ROUTE, NO_METHOD}


#: What only a store request is answered: dicomweb/test_stow.py.
STORING = {(403, "forbidden"), (408, "too-slow"), (415, "unsupported-media-type"), (507, "storage-full")}
#: What only a self-test is answered: test_benchmarks.py.
SELF_TEST = {(401, "unauthorized"), (409, "self-test-running")}


def kind_of(error: type[Exception]) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", error.__name__).lower()


def test_every_error_of_the_core_has_a_status_or_never_reaches_a_client() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RenderError)}
    assert classes - {row[0] for row in STATUS} == {errors.StartupError, errors.UnreadableFile}


def test_the_document_lists_every_status_that_occurs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", text[text.index("## Errors") :], re.MULTILINE)}
    occurring = {case.status for case in CASES} | {asked.kind[0] for asked in REQUESTS} | {STOPPED[0], FULL[0], 500}
    occurring.add(502)  # of the front before several processes: test_front.py
    occurring |= {401, 403, 409}  # of self-tests: test_benchmarks.py
    assert listed == occurring
