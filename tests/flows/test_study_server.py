"""A study is served: votes are on disk, nothing tells the methods apart, nonsense is refused.

What people see and do is in tests/browser.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from flows import study_server
from flows.stopping import Stopping
from flows.study_server import StudyServer, served
from flows.study_site import PAGE, StudySite
from infra.store import LocalStore, open_store
from manifests.errors import ManifestError
from tasks.study.study_file import Study, load_study
from tests.shown_studies import ENTRIES, write_study


@dataclass
class Client:
    """Somebody who speaks to a served study.

    Attributes:
        folder: of the study.
        server: that shows it.
    """

    folder: Path
    server: StudyServer

    def __post_init__(self) -> None:
        self.link = urlsplit(self.server.url)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer; the path is what follows the link."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=20)
        try:
            connection.request(method, self.link.path + path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON at an address."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, document: object) -> tuple[int, Any]:
        """Status, and the JSON or the sentence."""
        body = json.dumps(document).encode()
        status, _, said = self.ask("POST", path, body, **{"Content-Type": "application/json"})
        return status, json.loads(said) if status == 200 else said.decode()

    def begin(self) -> str:
        """The id of a new session."""
        status, told = self.post("sessions", {})
        assert status == 200
        return told["session"]

    def vote(self, session: str, trial: int, choice: str, *, revision: int = 0) -> tuple[int, Any]:
        """Answers a trial of a study with one question."""
        answers = [{"question": "overall", "choice": choice}]
        document = {"answers": answers, "revision": revision, "seconds": 1.5}
        return self.post(f"sessions/{session}/trials/{trial}", document)

    def raw(self, data: bytes) -> bytes:
        """What comes back over a connection that is given these bytes and no more."""
        with socket.create_connection(("127.0.0.1", self.server.server_port), timeout=20) as sent:
            sent.sendall(data)
            sent.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sent.recv(65536), b""))

    def votes(self) -> list[tuple[int, int, str]]:
        """Trial, revision and choice of every vote on disk."""
        files = sorted((self.folder / "votes").glob("*/*.parquet"))
        rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
        return [(row["trial"], row["revision"], row["choice"]) for row in rows]


@contextmanager
def serving(
    folder: Path, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> Iterator[Client]:
    site = StudySite(LocalStore(folder))
    with served(site, host, port, token, Stopping()) as server:
        yield Client(folder, server)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return folder


@pytest.fixture
def folder(study_folder: Path, tmp_path: Path) -> Path:
    """The same study for one test."""
    return shutil.copytree(study_folder, tmp_path / "study")


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


@pytest.fixture(scope="module")
def reader(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """For all that stores no vote."""
    folder = shutil.copytree(study_folder, tmp_path_factory.mktemp("read") / "study")
    with serving(folder) as client:
        yield client


def study_of(client: Client) -> Study:
    return load_study(LocalStore(client.folder))


def test_a_whole_study_is_on_disk_as_it_was_answered(client):
    session = client.begin()
    choices, told = ["left", "right", "right", "left", "left"], {}
    for trial, choice in enumerate(choices):
        assert client.votes() == [(n, 0, choices[n]) for n in range(trial)]
        assert client.get(f"sessions/{session}")["next"] == trial
        status, told = client.vote(session, trial, choice)
        assert (status, told["answered"]) == (200, trial + 1)
        assert client.votes()[-1] == (trial, 0, choice)
    assert told["next"] is None


def test_the_same_vote_again_is_no_second_one_and_another_one_is_refused(client):
    session = client.begin()
    for _ in range(3):
        status, told = client.vote(session, 0, "left")
        assert (status, told["next"]) == (200, 1)
    status, sentence = client.vote(session, 0, "right")
    assert status == 409
    assert "answered otherwise" in sentence
    assert client.votes() == [(0, 0, "left")]


def test_one_may_go_back_once_and_not_ahead(client):
    session = client.begin()
    assert client.get(f"sessions/{session}")["may_go_back"] is False
    client.vote(session, 0, "left")
    assert client.get(f"sessions/{session}")["may_go_back"] is True
    assert client.vote(session, 0, "right", revision=1)[0] == 200
    assert client.get(f"sessions/{session}")["may_go_back"] is False
    assert client.vote(session, 0, "left", revision=2)[0] in (400, 409)
    assert client.vote(session, 1, "left", revision=1)[0] == 409
    assert client.vote(session, 2, "left")[0] == 409
    client.vote(session, 1, "left")
    assert client.vote(session, 0, "left", revision=2)[0] in (400, 409)
    assert client.votes() == [(0, 0, "left"), (0, 1, "right"), (1, 0, "left")]


def test_a_restarted_server_goes_on_where_people_were(folder):
    with serving(folder) as client:
        session = client.begin()
        client.vote(session, 0, "left")
        port = client.server.server_port
    with serving(folder, port=port) as client:
        assert client.get(f"sessions/{session}")["next"] == 1
        assert client.vote(session, 0, "left")[0] == 200
        assert client.vote(session, 1, "right")[0] == 200
        assert client.votes() == [(0, 0, "left"), (1, 0, "right")]


def test_nothing_that_is_sent_tells_a_method_or_what_a_trial_is_for(reader):
    study = study_of(reader)
    session = reader.begin()
    told = [reader.ask("GET", name.name)[2] for name in PAGE.iterdir() if name.suffix != ".py"]
    told += [reader.ask("GET", path)[2] for path in ("", "study", f"sessions/{session}")]
    trials = [reader.get(f"sessions/{session}/trials/{n}") for n in range(len(study.trials(0)))]
    text = b" ".join(filter(None, told)).decode() + json.dumps(trials)
    for secret in (*ENTRIES, "decoy", "attention", "expected", "plain", "case0", '"ours"'):
        assert secret not in text, secret
    assert len({frozenset(trial) for trial in trials}) == 1
    for trial in trials:
        for name in (trial["left"], trial["right"], *(r["picture"] for r in trial["references"])):
            assert re.fullmatch(r"pictures/[0-9a-f]{64}\.png", name)


def test_the_sides_are_those_of_the_study(reader):
    study = study_of(reader)
    session = reader.begin()
    number = reader.server.site._session(session).number
    for trial in study.trials(number):
        shown = reader.get(f"sessions/{session}/trials/{trial.number}")
        results = study.case(trial).results
        assert (shown["left"], shown["right"]) == (results[trial.left], results[trial.right])


def test_no_page_loads_from_elsewhere_or_keeps_cookies(reader):
    for path in ("", "study.js", "study.css", "study", "nothing"):
        _, headers, body = reader.ask("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert not {"Set-Cookie", "Access-Control-Allow-Origin"} & headers.keys()
        assert not re.search(rb"(?<!xmlns=\")https?://|style=|onclick=|document\.cookie", body)


def test_only_what_the_study_shows_can_be_read(client):
    picture = next(iter(client.server.site._pictures))
    client.begin()
    (client.folder / "pictures" / ("0" * 64 + ".png")).write_bytes(b"of nobody")
    assert client.ask("GET", picture)[0] == 200
    for path in [
        *("study.json", "votes/", "sessions/000000.json", "__init__.py", "index.html/"),
        *(f"pictures/{'0' * 64}.png", "pictures/", "pictures/../study.json", "../study.json"),
        *("%2e%2e/study.json", "..%2fstudy.json", "/etc/passwd", "//etc/passwd", "index.html%00"),
        *("http://127.0.0.1/study.json", "sessions/../study.json", "study_page/study.js"),
    ]:
        assert client.ask("GET", path)[0] == 404, path


def test_a_head_is_a_get_without_its_body(reader):
    for path in ("", "study", next(iter(reader.server.site._pictures)), "nothing"):
        status, headers, body = reader.ask("GET", path)
        again, heads, nothing = reader.ask("HEAD", path)
        assert (again, nothing) == (status, b"")
        assert heads["Content-Length"] == headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_other_methods_are_refused(reader, method):
    assert reader.ask(method, "study")[0] == 405


def test_an_address_takes_its_own_methods_alone(reader):
    post = {"Content-Type": "application/json"}
    assert reader.ask("GET", "sessions")[0] == 405
    assert reader.ask("POST", "study", b"{}", **post)[0] == 405
    assert reader.ask("POST", "", b"{}", **post)[0] == 405


GARBAGE = {
    "nothing that is HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a line without end": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 300 + b"\r\n",
    "a header without end": b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    "another version": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no length": b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\n\r\n",
    "a length that is none": b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: -5\r\n\r\n",
    "too long": b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 99999999\r\n\r\n",
    "chunks": b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "shorter than it says": b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 50\r\n\r\n{}",
    "a form of another site": b"POST /sessions HTTP/1.1\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 2\r\n\r\n{}",
    "letters beyond ASCII": "GET /sessions/ä\u2028 HTTP/1.1\r\n\r\n".encode(),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_gets_a_sentence_and_no_traceback(client, data, capfd):
    answer = client.raw(data)
    assert re.match(rb"HTTP/1.[01] 4[0-9][0-9] ", answer), answer[:200]
    assert b"Traceback" not in answer
    assert not list(client.folder.glob("sessions/*"))
    assert client.ask("GET", "study")[0] == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_request_behind_an_unread_body_is_not_obeyed(client):
    hidden = (
        b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    length = b"Content-Length: %d\r\n\r\n" % len(hidden)
    answer = client.raw(b"GET /study HTTP/1.1\r\n" + length + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not list(client.folder.glob("sessions/*"))


SOUND = {"answers": [{"question": "overall", "choice": "left"}], "revision": 0, "seconds": 1.0}
NONSENSE = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a number": b"7",
    "nested": b"[" * 30_000,
    "no seconds": json.dumps(SOUND | {"seconds": "long"}).encode(),
    "endless seconds": json.dumps(SOUND | {"seconds": float("inf")}).encode(),
    "less than none": json.dumps(SOUND | {"seconds": -1}).encode(),
    "no number of seconds": json.dumps(SOUND | {"seconds": float("nan")}).encode(),
    "another field": json.dumps(SOUND | {"name": "Ann"}).encode(),
    "another revision": json.dumps(SOUND | {"revision": True}).encode(),
    "no answer": json.dumps(SOUND | {"answers": []}).encode(),
    "two answers": json.dumps(SOUND | {"answers": SOUND["answers"] * 2}).encode(),
    "another question": json.dumps(
        SOUND | {"answers": [{"question": "beauty", "choice": "left"}]}
    ).encode(),
    "another choice": json.dumps(
        SOUND | {"answers": [{"question": "overall", "choice": "both"}]}
    ).encode(),
}


def test_a_vote_that_is_nonsense_is_refused_and_nothing_is_stored(client):
    session = client.begin()
    for what, body in NONSENSE.items():
        status, _, said = client.ask(
            "POST", f"sessions/{session}/trials/0", body, **{"Content-Type": "application/json"}
        )
        assert status in (400, 409), what
        assert said, what
        assert b"Traceback" not in said
    assert not client.votes()
    assert client.vote(session, 0, "left")[0] == 200


def test_sessions_that_nobody_has_are_not_found(client):
    session = client.begin()
    for other in ("0" * 32, session[:-1], session.upper() + "x", "..", f"{session[:8]}{'0' * 24}"):
        assert client.ask("GET", f"sessions/{other}")[0] == 404
        assert client.vote(other, 0, "left")[0] == 404
    assert client.ask("GET", f"sessions/{session}/trials/99")[0] == 404
    assert client.vote(session, 99, "left")[0] in (400, 409)
    assert not client.votes()


def test_twenty_people_at_once_are_twenty_and_each_vote_is_there(client):
    together = threading.Barrier(20)

    def takes_part(_: int) -> str:
        together.wait()
        session = client.begin()
        for trial in range(5):
            assert client.vote(session, trial, "left")[0] == 200
        return session

    with ThreadPoolExecutor(20) as people:
        sessions = list(people.map(takes_part, range(20)))
    assert len(set(sessions)) == 20
    numbers = {client.server.site._session(session).number for session in sessions}
    assert numbers == set(range(20))
    assert sorted(client.votes()) == sorted((n, 0, "left") for n in range(5) for _ in sessions)


def test_off_loopback_a_link_needs_its_token(study_folder):
    with serving(study_folder, "0.0.0.0") as client:
        token = client.server.token
        assert len(token) == 32
        assert client.link.path == f"/{token}/"
        assert client.ask("GET", "study")[0] == 200
        client.link = client.link._replace(path="/")
        for path in ("", "study", "study.js", token[:-1] + "/study", "x" * 32 + "/"):
            status, headers, said = client.ask("GET", path)
            assert status == 403
            assert headers["Content-Type"].startswith("text/plain")
            assert said.decode() == study_server.NO_TOKEN
        assert client.post("sessions", {})[0] == 403
        assert client.ask("GET", token)[0] == 404
    with serving(study_folder, "0.0.0.0") as other:
        assert other.server.token != token


@pytest.mark.parametrize(
    "host", ["study.example.org", "study.example.org:80", "10.0.0.1", "", "::1"]
)
def test_without_a_token_only_the_names_of_this_machine_are_answered(client, host):
    """A page elsewhere may call this machine by a name of its own, and would read along."""
    status, _, said = client.ask("GET", "study", Host=host)
    assert status == 403
    assert b"--token" in said
    for own in ("localhost", f"LocalHost:{client.server.server_port}", "127.0.0.1", "[::1]:80"):
        assert client.ask("GET", "study", Host=own)[0] == 200


def test_on_loopback_a_token_is_needed_where_one_is_given(study_folder):
    with serving(study_folder) as client:
        assert client.server.token == ""
    with serving(study_folder, token="of-my-own") as client:
        assert client.link.path == "/of-my-own/"
        assert client.ask("GET", "study")[0] == 200
        client.link = client.link._replace(path="/")
        assert client.ask("GET", "study")[0] == 403
    for token in ("", "short", "with/slash", "ümlauts-and-more", "x" * 129):
        with (
            pytest.raises(ManifestError, match="--token is 8 to 128"),
            serving(study_folder, token=token),
        ):
            pass


def test_an_address_that_cannot_be_used_is_one_sentence(study_folder):
    with serving(study_folder) as client:
        for host, port in (
            ("127.0.0.1", client.server.server_port),
            ("no-such-host.invalid", 0),
            ("192.0.2.77", 0),
            ("ü" * 80, 0),
        ):
            with (
                pytest.raises(ManifestError, match="cannot listen at --host"),
                serving(study_folder, host, port),
            ):
                pass


def test_a_study_without_all_of_its_pictures_is_not_shown(folder):
    picture = min((folder / "pictures").iterdir())
    picture.unlink()
    with pytest.raises(ManifestError, match=f"1 of the .* missing .*{picture.name}"):
        StudySite(LocalStore(folder))


def test_a_damaged_picture_is_not_shown(client, caplog):
    picture = min((client.folder / "pictures").iterdir())
    picture.write_bytes(picture.read_bytes()[:-1])
    assert client.ask("GET", f"pictures/{picture.name}")[0] == 500
    assert "damaged" in caplog.text


def test_a_vote_that_cannot_be_stored_is_not_thanked_for(client):
    session = client.begin()
    (client.folder / "votes").write_text("a file where the votes should go")
    status, sentence = client.vote(session, 0, "left")
    assert status == 503
    assert "nothing was saved" in sentence
    assert str(client.folder) not in sentence
    (client.folder / "votes").unlink()
    assert client.vote(session, 0, "left")[0] == 200
    assert client.votes() == [(0, 0, "left")]


@pytest.mark.s3
def test_a_study_on_s3_is_shown_and_its_votes_are_there(study_folder, s3_bucket):
    store = open_store(f"s3://{s3_bucket}/study")
    for found in LocalStore(study_folder).list():
        store.put(found.key, study_folder / found.key)
    with served(StudySite(store), "127.0.0.1", 0, None, Stopping()) as server:
        client = Client(study_folder, server)
        session = client.begin()
        shown = client.get(f"sessions/{session}/trials/0")
        assert client.ask("GET", shown["left"])[2] == (study_folder / shown["left"]).read_bytes()
        for _ in range(2):
            assert client.vote(session, 0, "right")[1]["next"] == 1
        assert client.vote(session, 0, "left")[0] == 409
    (vote,) = store.list("votes/")
    (row,) = pq.read_table(io.BytesIO(store.get(vote.key))).to_pylist()
    assert (row["session"], row["trial"], row["choice"]) == (session, 0, "right")


def test_whoever_sends_slowly_is_cut_off(client, monkeypatch):
    monkeypatch.setattr(study_server, "REQUEST_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=20) as slow:
        slow.sendall(b"GET /stu")
        assert slow.recv(100) == b""
    beginning = (
        b"POST /sessions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=20) as slow:
        slow.sendall(beginning)
        assert slow.recv(100) == b""
    assert not list(client.folder.glob("sessions/*"))


def test_too_many_connections_are_closed_and_the_others_go_on(study_folder, monkeypatch):
    monkeypatch.setattr(study_server, "MAX_CONNECTIONS", 2)
    with serving(study_folder) as client:
        address = ("127.0.0.1", client.server.server_port)
        ask = b"GET /study HTTP/1.1\r\n\r\n"
        with (
            socket.create_connection(address, timeout=20) as one,
            socket.create_connection(address, timeout=20) as two,
        ):
            for held in (one, two):
                held.sendall(ask)
                assert held.recv(100).startswith(b"HTTP/1.1 200")
            with socket.create_connection(address, timeout=20) as third:
                assert third.recv(100) == b""
            one.sendall(ask)
            assert one.recv(100)


def test_one_connection_carries_many_requests(reader):
    connection = http.client.HTTPConnection("127.0.0.1", reader.server.server_port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/study")
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())
    connection.close()
