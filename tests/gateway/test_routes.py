"""What the table promises: every route of a real ComfyUI is matched on purpose, by one row."""

from __future__ import annotations

import re

import pytest

from comfy_proxy.gateway.routes import TABLE, Policy, Prefix, Row, match

BOTH = """
GET    /ws                                          events
POST   /prompt                                      scheduled
GET    /prompt                                      merged
GET    /queue                                       merged
POST   /queue                                       owner_by_prompt
POST   /interrupt                                   owner_by_prompt
GET    /history                                     merged
POST   /history                                     owner_by_prompt
GET    /history/{prompt_id}                         owner_by_prompt
POST   /upload/image                                upload
POST   /upload/mask                                 upload
GET    /view                                        owner_by_file
GET    /object_info                                 object_info
GET    /object_info/{node_class}                    object_info
POST   /free                                        broadcast
GET    /users                                       state
POST   /users                                       state
GET    /settings                                    state
POST   /settings                                    state
GET    /settings/{id}                               state
POST   /settings/{id}                               state
GET    /userdata                                    state
GET    /v2/userdata                                 state
GET    /userdata/{file}                             state
POST   /userdata/{file}                             state
DELETE /userdata/{file}                             state
POST   /userdata/{file}/move/{dest}                 state
GET    /                                            primary
GET    /embeddings                                  merged
GET    /extensions                                  primary
GET    /models                                      merged
GET    /models/{folder}                             merged
GET    /experiment/models                           merged
GET    /experiment/models/{folder}                  merged
GET    /experiment/models/preview/{folder}/{path_index}/{filename…} first_found
GET    /view_metadata/{folder_name}                 first_found
GET    /system_stats                                merged
GET    /features                                    features
GET    /workflow_templates                          primary
GET    /i18n                                        primary
GET    /global_subgraphs                            primary
GET    /global_subgraphs/{id}                       primary
GET    /node_replacements                           primary
"""
"""Of ``server.py`` and ``app/*.py``; the last one is of 2026, the others also of 0.3.75."""

BARE = """
GET    /internal/files/{directory_type}             merged
GET    /internal/logs                               primary
GET    /internal/logs/raw                           primary
PATCH  /internal/logs/subscribe                     subscription
GET    /internal/folder_paths                       primary
GET    /extensions/{path…}                          primary
GET    /docs/{path…}                                primary
GET    /templates/{path…}                           primary
GET    /assets/{file…}                              primary
GET    /scripts/{path…}                             primary
GET    /fonts/{path…}                               primary
GET    /cursor/{path…}                              primary
GET    /materialdesignicons.min.css                 primary
GET    /user.css                                    primary
"""
"""The sub-application ``/internal`` and static files: without ``/api`` only."""

API = """
GET    /api/jobs                                    merged
GET    /api/jobs/{prompt_id}                        owner_by_prompt
POST   /api/jobs/{prompt_id}/cancel                 owner_by_prompt
POST   /api/jobs/cancel                             owner_by_prompt
GET    /api/assets                                 merged_assets
POST   /api/assets                                 new_asset
GET    /api/assets/{asset_id}                      owner_by_asset
PUT    /api/assets/{asset_id}                      owner_by_asset
DELETE /api/assets/{asset_id}                      owner_by_asset
GET    /api/assets/{asset_id}/content              owner_by_asset
POST   /api/assets/{asset_id}/tags                 owner_by_asset
DELETE /api/assets/{asset_id}/tags                 owner_by_asset
HEAD   /api/assets/hash/{hash}                     new_asset
POST   /api/assets/from-hash                       new_asset
GET    /api/assets/tags/refine                     merged_assets
POST   /api/assets/seed                            asset_scan
GET    /api/assets/seed/status                     asset_scan
POST   /api/assets/seed/cancel                     asset_scan
POST   /api/assets/prune                           asset_scan
GET    /api/tags                                   merged_assets
"""
"""Of 2026, with ``/api`` only."""

Route = tuple[str, str, str]


def routes(text: str) -> list[Route]:
    """Method, path and policy of each line."""
    return [
        (line.split()[0], line.split()[1], line.split()[2]) for line in text.split("\n") if line
    ]


REAL = [
    *routes(BOTH),
    *((method, f"/api{path}", policy) for method, path, policy in routes(BOTH)),
    *routes(BARE),
    *routes(API),
]


def example(pattern: str) -> str:
    """A path that fits."""
    return re.sub(r"\{\w+\}", "a%2Fb", pattern.replace("…}", "}/c.js"))


def prefixes(row: Row) -> list[str]:
    return {Prefix.BOTH: ["", "/api"], Prefix.BARE: [""], Prefix.API: ["/api"]}[row.prefix]


@pytest.mark.long
@pytest.mark.parametrize(("method", "path", "policy"), REAL)
def test_every_route_of_comfyui_is_matched_on_purpose(method: str, path: str, policy: str) -> None:
    """Its policy is the one intended, by a row of the table; HEAD as GET."""
    for verb in (method, "HEAD") if method == "GET" else (method,):
        found = match(verb, example(path))
        assert (found.policy, bool(found.pattern)) == (policy, True)


def test_every_row_is_a_route_of_comfyui() -> None:
    """Nothing in the table that no ComfyUI has: each row answers a route of the lists."""
    used = {match(method, example(path)).pattern for method, path, _ in REAL}
    assert {row.pattern for row in TABLE} == used
    methods = {(method, match(method, example(path)).pattern) for method, path, _ in REAL}
    for row in TABLE:
        for method in row.methods - {"HEAD"}:
            assert (method, row.pattern) in methods


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{min(row.methods)} {row.pattern}")
def test_no_row_is_shadowed(row: Row) -> None:
    """Each is found for each of its methods, with and without ``/api`` as it says."""
    for method in row.methods:
        for prefix in prefixes(row):
            found = match(method, prefix + example(row.pattern))
            assert (found.pattern, found.policy) == (row.pattern, row.policy)
        for prefix in {"", "/api"} - set(prefixes(row)):
            assert match(method, prefix + example(row.pattern)).pattern != row.pattern


def test_no_row_comes_twice() -> None:
    """A method of a pattern is in one row only."""
    named = [(method, row.pattern) for row in TABLE for method in row.methods]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("method", "path", "variables"),
    [
        ("GET", "/userdata/workflows%2Fa.json", {"file": "workflows/a.json"}),
        ("POST", "/api/userdata/a%2Fb/move/c%2Fd", {"file": "a/b", "dest": "c/d"}),
        ("GET", "/history/a%2Fb%20c%25", {"prompt_id": "a/b c%"}),
        ("GET", "/object_info/KSampler%20(a+b)", {"node_class": "KSampler (a+b)"}),
        ("GET", "/extensions/core/x%2F..%2Fy.js", {"path": "core/x/../y.js"}),
        ("GET", "/internal/files/input", {"directory_type": "input"}),
    ],
)
def test_an_encoded_slash_stays_in_its_segment(
    method: str, path: str, variables: dict[str, str]
) -> None:
    """Variables are decoded after the path was cut, as aiohttp does."""
    assert match(method, path).variables == variables


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/customnode/status"),
        ("POST", "/api/manager/queue/install"),
        ("GET", "/manager/reboot"),
        ("GET", "/user.css/x"),
        ("POST", "/scripts/app.js"),
        ("GET", "/jobs"),
        ("GET", "/jobs/a"),
        ("GET", "/api/internal/logs"),
        ("GET", "/api/api/queue"),
        ("GET", "/queue/"),
        ("GET", "/queuex"),
        ("GET", "//queue"),
        ("GET", "/history/"),
        ("GET", "/history/a/b"),
        ("GET", "/queue%2F"),
        ("PUT", "/queue"),
        ("DELETE", "/history"),
        ("OPTIONS", "/prompt"),
        ("GET", "/interrupt"),
        ("GET", "/upload/image"),
        ("POST", "/view"),
        ("POST", "/api/jobs"),
        ("HEAD", "/free"),
        ("get", "/queue"),
        ("GET", ""),
        ("OPTIONS", "*"),
    ],
)
def test_what_no_row_names_is_a_custom_nodes_own(method: str, path: str) -> None:
    """Custom nodes' routes, static files, methods that a route does not have."""
    found = match(method, path)
    assert (found.policy, found.pattern) == (Policy.CUSTOM, "")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/api/jobs/cancel", "/jobs/cancel"),
        ("/api/jobs/a/cancel", "/jobs/{prompt_id}/cancel"),
        ("/userdata/a/move/b", "/userdata/{file}/move/{dest}"),
        ("/userdata/a%2Fmove%2Fb", "/userdata/{file}"),
    ],
)
def test_words_of_the_path_are_not_taken_for_names(path: str, pattern: str) -> None:
    """``cancel`` is no id where ComfyUI has a route of that name."""
    assert match("POST", path).pattern == pattern
