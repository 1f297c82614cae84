"""A graph that is run although ComfyUI has it in its cache."""

from __future__ import annotations

from comfy_proxy.jobs.workflows.graph import RUN_ANEW, Graph


def test_nodes_with_results_are_marked() -> None:
    """And those that nobody reads, any of which may be an output; what they read stays cached. The
    graph that it was made of is as before."""
    nodes = {
        "1": {"class_type": "Load", "inputs": {"name": "x", "odd": [["1"], {}]}},
        "2": {"class_type": "Show", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    }
    graph = Graph(prompt=nodes, output_nodes=frozenset(), by_frame=False)
    named = Graph(prompt=nodes, output_nodes=frozenset("2"), by_frame=False)
    marked = [
        {key for key, node in one.run_anew("t").prompt.items() if node["inputs"].get(RUN_ANEW)}
        for one in (graph, named, graph)
    ]
    assert marked == [{"3"}, {"2", "3"}, {"3"}]
    assert not any(RUN_ANEW in node["inputs"] for node in nodes.values())
