"""A web server of this computer that answers as databases of structures do, or as an attacker would."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Database:
    """A server whose answers are functions by path; `asked` keeps (path, parameters, headers) of each question.

    A function gets the parameters of the question and returns a dict, or (status, headers, bytes), or writes to the
    handler that it gets as ``parameters["handler"]`` and returns None.
    """

    def __init__(self):
        self.asked, self.answers = [], {}
        database = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                parameters = {key: value[0] for key, value in parse_qs(parts.query).items()}
                database.asked.append((parts.path, parameters, dict(self.headers)))
                answer = database.answers.get(parts.path)
                if answer is None:
                    answer = 404, {}, b'{"errors": [{"detail": "no such page"}]}'
                elif callable(answer):
                    answer = answer(parameters | {"handler": self})
                if answer is None:
                    return
                if isinstance(answer, dict):
                    answer = 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
                status, headers, body = answer
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        """Stop, and free the port."""
        self.server.shutdown()
        self.server.server_close()


def material(number="mp-1265", formula="MgO", a=2.606, elements=("Mg", "O"), **changes):
    """A material as the Materials Project answers: a primitive cell of rock salt, with oxidation states."""
    matrix = [[0.0, 2.106, 2.106], [2.106, 0.0, 2.106], [2.106, 2.106, 0.0]]
    sites = [
        {"species": [{"element": element, "occu": 1}], "abc": [0.5 * i] * 3, "xyz": [0, 0, 0], "label": element,
         "properties": {"magmom": 0.0}}
        for i, element in enumerate(elements)
    ]  # fmt: skip
    structure = {"@module": "pymatgen.core.structure", "@class": "Structure", "charge": 0,
                 "lattice": {"matrix": matrix, "pbc": [True, True, True], "volume": 18.7}, "sites": sites}  # fmt: skip
    document = {"material_id": number, "formula_pretty": formula, "structure": structure,
                "builder_meta": {"license": "BY-C", "database_version": "2025.09.25"}}  # fmt: skip
    return document | changes


def resource(number="1000053", **changes):
    """A structure as COD answers by OPTIMADE: the cubic cell of MgO."""
    a = 4.2117
    half = a / 2
    mg = [[0, 0, 0], [0, half, half], [half, 0, half], [half, half, 0]]
    o = [[half, 0, 0], [0, half, 0], [0, 0, half], [half, half, half]]
    attributes = {
        "lattice_vectors": [[a, 0, 0], [0, a, 0], [0, 0, a]],
        "cartesian_site_positions": [[float(x) for x in place] for place in mg + o],
        "species": [
            {"name": "Mg", "chemical_symbols": ["Mg"], "concentration": [1.0]},
            {"name": "O", "chemical_symbols": ["O"], "concentration": [1.0]},
        ],
        "species_at_sites": ["Mg"] * 4 + ["O"] * 4, "nperiodic_dimensions": 3, "structure_features": [],
        "chemical_formula_reduced": "MgO",
    }  # fmt: skip
    return {"id": number, "type": "structures", "attributes": attributes | changes}


def page(*documents, following=None, total=None):
    """A page of OPTIMADE's answer."""
    meta = {"api_version": "1.1.0", "more_data_available": following is not None,
            "data_returned": len(documents) if total is None else total,
            "query": {"representation": "/structures"}}  # fmt: skip
    return {"data": list(documents), "meta": meta, "links": {"next": following}}
