"""The Materials Project and OPTIMADE, as a server of this computer answers for them; and attacks of such a server."""

import json
import logging
import time

import numpy as np
import pytest
from database import Database, material, page, resource

import pyxem_dl
from pyxem_dl.crystals import downloads, online
from pyxem_dl.crystals.writing import printable

SECRET = "Secret0123456789abcdefSecret"


@pytest.fixture
def database(monkeypatch):
    """A database that stands for the Materials Project, too."""
    served = Database()
    monkeypatch.setattr(online, "MATERIALS_PROJECT", served.base)
    monkeypatch.setenv("MP_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    yield served
    served.close()


def by_optimade(database, query='elements HAS "Mg"', **kwargs):
    return pyxem_dl.structures(f"optimade:{database.base}?{query}", show_progressbar=False, **kwargs)


def by_materials_project(query="MgO", **kwargs):
    return pyxem_dl.structures(f"mp:{query}", show_progressbar=False, **kwargs)


def serve_materials(database, *documents, total=None):
    """Materials by pages, as the interface gives them."""

    def answer(parameters):
        start, n = int(parameters["_skip"]), int(parameters["_limit"])
        meta = {"total_doc": len(documents) if total is None else total}
        return {"data": list(documents[start : start + n]), "meta": meta}

    database.answers["/materials/summary/"] = answer


# ------------------------------------------------------------------------------------------------ Materials Project


def test_a_material_becomes_a_phase_in_its_standard_cell(database):
    serve_materials(database, material())
    (phase,) = found = by_materials_project()
    assert phase.space_group.short_name == "Fm-3m" and len(phase.structure) == 8
    assert phase.structure.lattice.a == pytest.approx(4.212)
    (entry,) = found.manifest
    assert entry["id"] == "mp:mp-1265" and entry["source"] == "mp" and entry["licence"] == "CC-BY-4.0"
    assert entry["prototype"] == "AB_cF8_225_a_b" and entry["formula"] == "MgO"
    path, parameters, headers = database.asked[0]
    assert path == "/materials/summary/" and parameters["formula"] == "MgO"
    assert {key.lower(): value for key, value in headers.items()}["x-api-key"] == SECRET


@pytest.mark.parametrize(
    "query, parameters",
    [
        ("mp-149, mp-13", {"material_ids": "mp-149,mp-13"}),
        ("Li-Ni-O", {"chemsys": "Li-Ni-O"}),
        ("Si-*", {"chemsys": "Si-*"}),
        ("*2O3", {"formula": "*2O3"}),
        ("elements=O,Ti&is_stable=true", {"elements": "O,Ti", "is_stable": "true", "deprecated": "false"}),
        ("nsites_max=4&deprecated=true", {"nsites_max": "4", "deprecated": "true"}),
    ],
)
def test_queries(database, query, parameters):
    serve_materials(database, material())
    by_materials_project(query)
    asked = database.asked[0][1]
    assert {key: asked[key] for key in parameters} == parameters
    assert set(asked) - set(parameters) - {"deprecated"} == {"_fields", "_limit", "_skip"}


@pytest.mark.parametrize("query", ["", "what?", "_limit=9", "api_key=abc", "Mg O", "../../users", "a b=c", "\x00"])
def test_what_is_no_query(database, query):
    with pytest.raises(ValueError, match="is no (query for the Materials Project|parameter of a search)"):
        by_materials_project(query)
    assert not database.asked


def test_many_materials_come_by_pages(database, monkeypatch):
    monkeypatch.setattr(online, "_PAGE", 4)
    serve_materials(database, *(material(f"mp-{i}", structure=rock_salt(4 + i / 20)) for i in range(10)))
    found = by_materials_project()
    assert len(found) == 10 and [int(p["_skip"]) for _, p, _ in database.asked] == [0, 4, 8]
    with pytest.warns(UserWarning, match="'mp:MgO' finds 10 structures; the first 6 were read. .*limit="):
        assert len(by_materials_project(limit=6)) == 6
    assert len(by_materials_project(n=3, seed=3)) == 3


def rock_salt(a):
    structure = material()["structure"]
    return structure | {"lattice": {"matrix": (a / 2 * (1 - np.eye(3))).tolist()}}


def test_without_a_key_or_with_a_wrong_one(database, monkeypatch):
    for value, message in (("", "needs your key, in the environment variable MP_API_KEY"), ("a\r\nHost: x", "no key")):
        monkeypatch.setenv("MP_API_KEY", value)
        with pytest.raises(PermissionError, match=message) as said:
            by_materials_project()
        assert not value or value not in str(said.value)
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(PermissionError, match="optimade:mp"):
        by_materials_project()
    assert not database.asked


def test_the_key_is_in_no_result_message_file_or_log(database, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    serve_materials(database, material(), material("mp-2", structure=None))
    with pytest.warns(UserWarning, match="mp:mp-2: its structure is missing") as said:
        found = by_materials_project()
    found.save(tmp_path / "set")
    database.answers["/materials/summary/"] = (403, {}, json.dumps({"detail": f"key {SECRET} is unknown"}).encode())
    with pytest.raises(PermissionError, match=r"refuses access \(HTTP 403\).*key \*\*\* is unknown") as error:
        by_materials_project()
    host = downloads.Host("x", database.base, 1, {"X-API-KEY": SECRET})
    texts = [repr(found), str(found.manifest), str(found.left_out), str(error.value), repr(host), caplog.text,
             *map(str, capsys.readouterr()), *(str(w.message) for w in said),
             *(path.read_text() for path in (tmp_path / "set").iterdir())]  # fmt: skip
    assert not any(SECRET in text for text in texts)


def test_the_key_goes_to_its_host_only(database):
    thief = Database()
    try:
        address = thief.base.replace("127.0.0.1", "localhost")
        database.answers["/materials/summary/"] = (302, {"Location": f"{address}/materials/summary/"}, b"")
        with pytest.raises(ValueError, match="points to another place, 'http://localhost"):
            by_materials_project()
        assert not thief.asked
    finally:
        thief.close()


def test_materials_that_cannot_be_used(database):
    good = material()
    structure = good["structure"]
    sites = structure["sites"]
    near = [sites[0], sites[1] | {"abc": [0.02, 0, 0]}]
    bad = {
        "no structure": {"structure": None},
        "no atoms": {"structure": structure | {"sites": []}},
        "two atoms": {"structure": structure | {"sites": near}},
        "two numbers": {"structure": structure | {"sites": [sites[0] | {"abc": [0, 0]}]}},
        "text": {"structure": structure | {"sites": [sites[0] | {"abc": ["0", "x", "0"]}]}},
        "endless": {"structure": structure | {"sites": [sites[0] | {"abc": [1e300, 0, 0]}]}},
        "flat": {"structure": structure | {"lattice": {"matrix": [[1, 0, 0], [2, 0, 0], [3, 0, 0]]}}},
        "dummy": {"structure": structure | {"sites": [sites[0] | {"species": [{"element": "X", "occu": 1}]}]}},
        "overfull": {"structure": structure | {"sites": [sites[0] | {"species": [{"element": "Mg", "occu": 7}]}]}},
    }
    serve_materials(database, *(material(f"mp-{i}", **change) for i, change in enumerate(bad.values())), good, 3, {})
    with pytest.warns(UserWarning, match=r"11 structures could not be read: mp:mp-0: its struct.*6 more\."):
        found = by_materials_project()
    assert len(found) == 1 and len(found.left_out) == 11
    reasons = list(found.left_out.values())
    for i, word in ((1, "no atoms"), (2, "apart"), (6, "cell"), (7, "'X' is no element"), (8, "occupancy")):
        assert word in reasons[i], (i, reasons[i])


def test_large_cells_are_left_out_and_said(database):
    large = material("mp-9")
    large["structure"]["sites"] = large["structure"]["sites"] * 500
    serve_materials(database, material(), large)
    with pytest.warns(UserWarning, match="mp:mp-9: it has 1000 atoms, more than max_atoms=500"):
        assert len(by_materials_project()) == 1
    with pytest.warns(UserWarning, match="too large: mp:mp-1265: it has 8 atoms, more than max_atoms=4"):
        with pytest.raises(ValueError, match="No crystal is left of 'mp:MgO': 2 were left out"):
            by_materials_project(max_atoms=4)


def test_a_query_without_a_hit(database):
    serve_materials(database)
    with pytest.raises(ValueError, match="'mp:MgO' finds no structure. Check the query"):
        by_materials_project()
    database.answers["/v1/structures"] = page()
    with pytest.raises(ValueError, match="finds no structure"):
        by_optimade(database)


# ------------------------------------------------------------------------------------------------------- OPTIMADE


def test_a_resource_becomes_a_phase(database, monkeypatch):
    database.answers["/v1/structures"] = page(resource())
    monkeypatch.setitem(online.PROVIDERS, "cod", (database.base, "CC0-1.0"))
    query = 'elements HAS ALL "Mg","O" AND nelements=2'
    (phase,) = found = pyxem_dl.structures(f"optimade:cod?{query}", show_progressbar=False)
    assert phase.space_group.number == 225 and phase.structure.lattice.a == pytest.approx(4.2117)
    (entry,) = found.manifest
    assert (entry["id"], entry["source"], entry["licence"]) == ("cod:1000053", "optimade:cod", "CC0-1.0")
    path, parameters, headers = database.asked[0]
    assert path == "/v1/structures" and parameters["filter"] == query
    assert "lattice_vectors" in parameters["response_fields"] and "x-api-key" not in {key.lower() for key in headers}


def test_a_turned_cell_is_the_same(database):
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", [20, 40, 60], degrees=True).as_matrix()
    plain = resource()["attributes"]
    moved = resource("2", **{key: (np.array(plain[key]) @ turn.T).tolist()
                             for key in ("lattice_vectors", "cartesian_site_positions")})  # fmt: skip
    database.answers["/v1/structures"] = page(resource(), moved)
    found = by_optimade(database)
    (entry,) = found.manifest
    assert list(found.left_out.values()) == [f"it is the same structure as {entry['id']}"]


def test_pages_are_followed(database):
    host = database.base.removeprefix("http://")
    pages = {"1": page(scaled(1), following=f"{database.base}/v1/structures?page=2", total=3),
             "2": page(scaled(2), following={"href": "/v1/structures?page=3"}, total=3),
             "3": page(scaled(3), total=3)}  # fmt: skip
    database.answers["/v1/structures"] = lambda parameters: pages[parameters.get("page", "1")]
    assert [e["id"] for e in by_optimade(database).manifest] == [f"{host}:{i}" for i in (1, 2, 3)]
    assert len(database.asked) == 3


def scaled(i):
    """MgO, larger by hundredths."""
    plain = resource()["attributes"]
    return resource(str(i), **{key: (np.array(plain[key]) * (1 + i / 100)).tolist()
                               for key in ("lattice_vectors", "cartesian_site_positions")})  # fmt: skip


@pytest.mark.parametrize(
    "link, message",
    [
        ("http://elsewhere.example/v1/structures?page=2", "points to another place, 'http://elsewhere.example"),
        ("https://127.0.0.1/v1/structures?page=2", "points to another place"),
        ("file:///etc/passwd", "points to another place, 'file:///etc/passwd'"),
        ("http://user@127.0.0.1:{port}/v1/structures?page=2", "points to another place"),
        ("{base}/v1/structures?page=2", "the same page again and again"),
    ],
)
def test_links_that_lead_astray(database, link, message):
    link = link.format(base=database.base, port=database.server.server_port)
    database.answers["/v1/structures"] = lambda parameters: page(resource(), following=link)
    with pytest.raises(ValueError, match=message):
        by_optimade(database)
    assert len(database.asked) <= 3


def test_pages_without_end(database):
    """A server that always has one more empty page, or one more structure."""
    count = iter(range(1000))

    def empty(parameters):
        return page(following=f"{database.base}/v1/structures?page={next(count)}")

    database.answers["/v1/structures"] = empty
    with pytest.raises(ValueError, match="finds no structure"):
        by_optimade(database)
    assert len(database.asked) == 5
    database.answers["/v1/structures"] = lambda parameters: page(
        scaled(len(database.asked)), following=f"{database.base}/v1/structures?page={next(count)}", total=10**9
    )
    with pytest.warns(UserWarning, match="finds 1000000000 structures; the first 12 were read"):
        assert len(by_optimade(database, limit=12)) == 12


def test_solid_solutions_and_vacancies(database):
    species = [{"name": "M", "chemical_symbols": ["Mg", "Fe", "vacancy"], "concentration": [0.6, 0.3, 0.1]},
               {"name": "O", "chemical_symbols": ["O"], "concentration": [1.0]}]  # fmt: skip
    mixed = resource(species=species, species_at_sites=["M"] * 4 + ["O"] * 4, structure_features=["disorder"])
    database.answers["/v1/structures"] = page(mixed)
    (phase,) = found = by_optimade(database)
    assert phase.space_group.number == 225
    assert sum(atom.occupancy for atom in phase.structure if atom.element == "Fe") == pytest.approx(1.2)
    assert found.manifest[0]["prototype"] == "AB_cF8_225_a_b"


def species(name, symbol, share=1.0):
    return {"name": name, "chemical_symbols": [symbol], "concentration": [share]}


def test_resources_that_cannot_be_used(database):
    bad = {
        "no positions of atoms": {"cartesian_site_positions": None},
        "no positions": {"lattice_vectors": None},
        "not all of its atoms are listed": {"structure_features": ["implicit_atoms"]},
        "attached to others": {"structure_features": ["site_attachments"]},
        "correlated": {"structure_features": ["assemblies"]},
        "not periodic": {"nperiodic_dimensions": 2},
        "contradicts itself": {"species_at_sites": ["Mg"] * 3},
        "incomplete or": {"species": []},
        "incomplete": {"lattice_vectors": [[4, 0, 0], [0, 4, 0], [None, None, None]]},
        "contradicts": {"lattice_vectors": [[4, 0, 0], [0, 4, 0], [4, 0, 0]]},
        "is no element": {"species": [species("Mg", "X"), species("O", "O")]},
        "it has no atoms": {"cartesian_site_positions": [], "species_at_sites": []},
        "all of its sites are empty": {"species": [species("Mg", "Mg", 0.0), species("O", "O", 1e-300)]},
        "incomplete or contra": {"structure_features": [["disorder"], 3], "species": None},
        "more than max_atoms=500": {"cartesian_site_positions": [[0, 0, 0]] * 501},
    }
    documents = [resource(str(i), **change) for i, change in enumerate(bad.values())]
    database.answers["/v1/structures"] = page(*documents, resource("good"), "text", {"id": 3, "attributes": []})
    with pytest.warns(UserWarning, match="17 structures could not be read"):
        found = by_optimade(database)
    assert len(found) == 1
    for reason, said in zip(bad, found.left_out.values()):
        assert reason in said


def test_names_of_a_stranger(database, tmp_path):
    ids = ["../../evil", "a\x1b[31mred\r\nX: y", "x" * 5000, 'data_x\n_cell_length_a 1', "'; loop_ \u202e"]
    database.answers["/v1/structures"] = page(*(scaled(i) | {"id": id} for i, id in enumerate(ids)))
    found = by_optimade(database)
    folder = found.save(tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == {"set"} and len(list(folder.iterdir())) == 6
    for entry in found.manifest:
        assert len(entry["id"]) < 301 and entry["id"] == printable(entry["id"], 300)
    assert pyxem_dl.structures(folder).manifest == found.manifest


@pytest.mark.parametrize(
    "source, message",
    [
        ("optimade:xxx?nelements=1", "'xxx' is no OPTIMADE database known here: alexandria, cod"),
        ("optimade:file:///etc/passwd?", "is no web address|by https:// only"),
        ("optimade:http://example.org/optimade?", "asked by https:// only"),
        ("optimade:https://user:pass@example.org?", "is no web address"),
        ("optimade:https://exa mple.org?", "is no web address"),
        ("optimade:", "'' is no OPTIMADE database"),
    ],
)
def test_addresses_that_are_none(source, message):
    with pytest.raises(ValueError, match=message):
        pyxem_dl.structures(source)


# ------------------------------------------------------------------------------------------------------- the wire


@pytest.mark.parametrize(
    "answer, error, message",
    [
        ((400, {}, b'{"errors": [{"detail": "unknown field elemnts"}]}'), ValueError, "HTTP 400.*field elemnts"),
        ((404, {}, b"<html>no</html>"), ValueError, r"the question \(HTTP 404\)\. Check the query\.$"),
        ((401, {}, b""), PermissionError, "refuses access"),
        ((500, {}, b"\xff\x00\x1b[31m"), ConnectionError, "has a fault \\(HTTP 500\\)"),
        ((200, {}, b"<html>"), ValueError, "not JSON"),
        ((200, {}, b"[]"), ValueError, "no JSON object"),
        ((200, {}, b"{}"), ValueError, "no list of structures"),
        ((200, {}, b"\xff\xfe"), ValueError, "no text in UTF-8"),
        ((200, {}, b'{"data": ' + b"[" * 100_000), ValueError, "nested more than"),
        ((200, {}, b'{"data": [' + b"1" * 5000 + b"]}"), ValueError, "a number of 5000 digits"),
        ((200, {"Content-Encoding": "gzip"}, b"x"), ValueError, "packed answer"),
        ((200, {"Content-Length": "1000"}, b'{"data": []'), ValueError, "not JSON"),
        ((301, {"Location": "/v1/structures"}, b""), ValueError, "redirects without end"),
        ((302, {"Location": "file:///etc/passwd"}, b""), ValueError, "another place, 'file:///etc/passwd'"),
    ],
)
def test_answers_that_are_none(database, answer, error, message):
    database.answers["/v1/structures"] = lambda parameters: answer
    with pytest.raises(error, match=message) as said:
        by_optimade(database, timeout=5)
    assert "\x1b" not in str(said.value) and len(str(said.value)) < 600


def test_redirects_within_the_host_are_followed(database):
    database.answers["/v1/structures"] = (307, {"Location": "/v1/structures/"}, b"")
    database.answers["/v1/structures/"] = page(resource())
    assert len(by_optimade(database)) == 1


def test_a_busy_server_is_asked_again(database):
    answers = iter([(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": "0"}, b""), page(resource())])
    database.answers["/v1/structures"] = lambda parameters: next(answers)
    assert len(by_optimade(database)) == 1
    database.answers["/v1/structures"] = lambda parameters: (429, {"Retry-After": "86400"}, b"")
    with pytest.raises(ConnectionError, match="is busy"):
        by_optimade(database, timeout=2)


def test_an_answer_without_end_is_cut_off(database, monkeypatch):
    monkeypatch.setattr(downloads, "LARGEST", 2**20)

    def endless(parameters):
        handler = parameters["handler"]
        handler.send_response(200)
        handler.end_headers()
        with pytest.raises(OSError):
            while True:
                handler.wfile.write(b" " * 2**16)

    database.answers["/v1/structures"] = endless
    with pytest.raises(ValueError, match="more than 1 MB. Ask for fewer"):
        by_optimade(database)


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n"], ids=len)
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(database, begin):
    def slow(parameters):
        handler = parameters["handler"]
        try:
            handler.wfile.write(begin)
            for letter in b"X-Slow: yes, very very slow" * 20:
                handler.wfile.write(bytes([letter]))
                time.sleep(0.05)
        except OSError:
            pass

    database.answers["/v1/structures"] = slow
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="did not answer within 0.5 s"):
        by_optimade(database, timeout=0.5)
    assert time.monotonic() - started < 20


def test_without_a_network(database):
    database.close()
    with pytest.raises(ConnectionError, match="cannot be reached: .*refused.*use 'prototypes' or a folder"):
        by_optimade(database)
    with pytest.raises(ConnectionError, match="The Materials Project .*cannot be reached"):
        by_materials_project()
