"""What a release says of itself agrees in all places: pyproject.toml, CITATION.cff, the recipe for conda-forge."""

import datetime
import re
import tomllib

import pytest
import yaml

import pyxem_dl


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# ---------------------------------------------------------------- CITATION.cff
#: Keys of version 1.2.0 of the Citation File Format, as far as software needs them
NEEDED = {"authors", "cff-version", "message", "title"}
ALLOWED = NEEDED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url",
    "preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url",
    "version",
}  # fmt: skip
ENTITY = {"name", "address", "alias", "city", "country", "date-end", "date-start", "email", "fax", "location", "orcid",
          "post-code", "region", "tel", "website"}  # fmt: skip
PERSON = {"given-names", "family-names", "name-particle", "name-suffix", "affiliation", "alias", "email", "orcid",
          "website"}  # fmt: skip
DOI = r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-\.\(\)\[\]\\]+"


@pytest.fixture(scope="module")
def citation(root):
    return yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))


def is_author(author):
    return ("name" in author and set(author) <= ENTITY) or (author and set(author) <= PERSON)


def test_the_citation_follows_its_format(citation):
    assert NEEDED <= set(citation) <= ALLOWED
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] and all(is_author(author) for author in citation["authors"])
    assert all(isinstance(citation[key], str) and citation[key] for key in ("abstract", "message", "title", "version"))
    assert len(set(citation["keywords"])) == len(citation["keywords"]) > 0
    for key in ("url", "repository-code"):
        assert re.fullmatch(r"https://\S+", citation[key])
    if "date-released" in citation:
        assert isinstance(citation["date-released"], datetime.date)
    for reference in citation["references"]:
        assert {"authors", "title", "type"} <= set(reference)
        assert all(is_author(author) for author in reference["authors"])
        assert re.fullmatch(DOI, reference["doi"])


def test_the_citation_is_of_this_package(citation, project):
    assert citation["version"] == pyxem_dl.__version__
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"]
    assert citation["url"] == project["urls"]["Documentation"]


def test_links_of_the_project_lead_to_one_place(project):
    urls = project["urls"]
    assert set(urls) == {"Changelog", "Documentation", "Issues", "Source"}
    assert urls["Issues"] == urls["Source"] + "/issues"
    assert urls["Changelog"].startswith(urls["Documentation"] + "/")


# ---------------------------------------------------------------- conda-forge
#: Names that conda-forge has for distributions that are named otherwise on PyPI
ON_CONDA_FORGE = {"dask": "dask-core", "matplotlib": "matplotlib-base", "torch": "pytorch"}


@pytest.fixture(scope="module")
def recipe(root):
    return yaml.safe_load((root / "conda-recipe" / "recipe.yaml").read_text(encoding="utf-8"))


def bounds_of(requirement):
    """Name of a requirement, and its bounds as a set: of PyPI's notation, or of conda's."""
    name, bounds = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)", requirement).groups()
    return name, frozenset(filter(None, bounds.replace(" ", "").split(",")))


def test_bounds_are_read():
    assert bounds_of("dask[array]>=2024.12") == ("dask", {">=2024.12"})
    assert bounds_of("zarr >=2.17,<3") == bounds_of("zarr<3,>=2.17") == ("zarr", {">=2.17", "<3"})
    assert bounds_of("h5py") == ("h5py", frozenset())


def test_the_recipe_needs_what_the_package_needs(recipe, project):
    expected = dict(map(bounds_of, project["dependencies"]))
    expected = {ON_CONDA_FORGE.get(name, name): bounds for name, bounds in expected.items()}
    python, *others = recipe["requirements"]["run"]
    assert dict(map(bounds_of, others)) == expected
    least = recipe["context"]["python_min"]
    assert bounds_of(python.replace("${{ python_min }}", least)) == bounds_of("python" + project["requires-python"])


def test_the_recipe_builds_as_the_package_does(recipe, root):
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert dict(map(bounds_of, build)).items() <= dict(map(bounds_of, recipe["requirements"]["host"][1:])).items()
    assert recipe["build"]["noarch"] == "python"


def test_the_recipe_is_of_this_package(recipe, project):
    assert recipe["context"]["version"] == pyxem_dl.__version__
    assert recipe["package"]["name"] == project["name"]
    assert recipe["source"]["url"].startswith(project["urls"]["Source"] + "/")
    assert re.fullmatch(r"[0-9a-f]{64}", recipe["source"]["sha256"])
    about, urls = recipe["about"], project["urls"]
    assert about["summary"] == project["description"] and about["license"] == project["license"]
    assert about["documentation"] == urls["Documentation"] and about["repository"] == urls["Source"]
    (script,) = project["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(script)]
